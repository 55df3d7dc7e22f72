#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later

"""Types the commands of the manual that need root, in fresh roots of Debian.

    trymanual.py SUITE DIRECTORY PACKAGE.deb...
    trymanual.py SUITE DIRECTORY DISTRIBUTION.whl SOURCE.tar.gz

'make check-manual' is this with the packages that 'make check-packages' has built. In a
root with the minimum of SUITE, which systemd boots, it types the first part of
doc/quickstart.rst as it is written, and then the commands for root of the other pages.
A second root, with brz and ssh only, is the user's machine: it has the network of the
first, and knows it as host.example.

With a wheel and the source ("make check-dist") it types what doc/quickstart.rst has for
pipx instead, where there is no systemd, and then runs sshd; before that, what
doc/installing.rst has for pipx and pip. pip has Breezy from where it has packages here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from roots import Machine, Root, commands

#: The pages with commands for root; the host of the first is there for the others.
PAGES = ("quickstart", "installing", "openssh", "lp-serve-ssh", "operating")
#: Runs "$@" in the root $0, with a /proc and /dev of its own.
_CHROOT = """\
mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot "$0" "$@"
"""


def laptop(root: Root, machine: Machine, script: str) -> str:
    """Run a script on the user's machine; its output.

    :raises RuntimeError: if it fails, with its output.
    """
    words = [*machine.words()[:3], "--net", "unshare", "--mount", "--pid"]
    words += [
        "--fork",
        "--kill-child",
        "sh",
        "-c",
        _CHROOT,
        root.path,
        "runuser",
        "-l",
        "alice",
        "-c",
    ]
    done = subprocess.run(
        [*words, "set -eu\n" + script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"status {done.returncode} of\n{script}\n{done.stdout}")
    return done.stdout


def prepare(suite: str, directory: str, packages: list[str]) -> tuple[Root, Root]:
    """The roots of the host, with what apt will ask for, and of the user."""
    cache = os.path.join(os.path.dirname(os.path.abspath(directory)), "roots")
    host = Root.create(suite, f"{directory}/manual-host", cache)
    host.install("systemd", "systemd-sysv", "dbus")
    for path in packages:
        shutil.copy(path, host.at("root"))
    # The machine that is booted has no network to load packages from.
    for page in PAGES:
        for line in commands(page, "root").splitlines():
            if line.startswith("apt-get install"):
                words = line.replace("apt-get install", "apt-get install -qq -d")
                # The other packages need this one.
                host.run("sh", "-c", f"cd /root && {words} ./brz-lpserve_*.deb")
    home = Root.create(suite, f"{directory}/manual-laptop", cache)
    home.install("brz", "openssh-client")
    home.run("useradd", "-m", "-s", "/bin/bash", "alice")
    home.run("sh", "-c", "echo 127.0.0.1 host.example localhost >/etc/hosts")
    home.run("runuser", "-l", "alice", "-c", """
        mkdir -m 700 .ssh
        ssh-keygen -q -t ed25519 -N "" -f .ssh/id_ed25519
        echo "StrictHostKeyChecking accept-new" >.ssh/config
        brz whoami "Alice <alice@example.com>"
    """)  # fmt: skip
    shutil.copy(home.at("home/alice/.ssh/id_ed25519.pub"), host.at("root/alice.pub"))
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", host.at("root/bob")],
        check=True,
    )
    return host, home


#: Runs sshd and what follows on a network of its own.
_WITH_SSHD = """\
ip link set lo up
mkdir -p /run/sshd
/usr/sbin/sshd
su -l bzr -c '{account}'
su -l alice -c '{user}'
su -l bzr -c 'brz lp-serve-control shutdown'
kill $(cat /run/sshd.pid)
"""


def try_pipx(suite: str, directory: str, wheel: str, source: str) -> None:
    """Type what the manual has for pipx and pip."""
    cache = os.path.join(os.path.dirname(os.path.abspath(directory)), "roots")
    root = Root.create(suite, f"{directory}/manual-pipx", cache)
    root.install(
        "pipx", "python3-venv", "openssh-server", "iproute2", "ca-certificates"
    )
    for user in ("bzr", "alice"):
        root.run("useradd", "-m", "-s", "/bin/bash", user)
    # What "brz" is on the machine of alice; she has no service.
    root.run("ln", "-s", "/home/bzr/.local/bin/brz", "/usr/local/bin/brz")
    root.run("chmod", "755", "/home/bzr")
    root.run("sh", "-c", "echo 127.0.0.1 host.example localhost >/etc/hosts")
    root.run("runuser", "-l", "alice", "-c", """
        mkdir -m 700 .ssh
        ssh-keygen -q -t ed25519 -N "" -f .ssh/id_ed25519
        printf "User bzr\\nStrictHostKeyChecking accept-new\\n" >.ssh/config
    """)  # fmt: skip
    home = root.at("home/bzr")
    shutil.copy(root.at("home/alice/.ssh/id_ed25519.pub"), f"{home}/alice.pub")
    root.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/home/bzr/bob")
    os.makedirs(root.at("wheels"))
    shutil.copy(wheel, root.at("wheels"))
    # pip trusts in the root whom this host trusts.
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", root.at("wheels/ca.crt"))
    settings = {"PIP_FIND_LINKS": "/wheels", "PIP_CERT": "/wheels/ca.crt"}
    exports = "".join(f"export {name}='{value}'\n" for name, value in settings.items())
    for page in ("quickstart", "installing"):
        script = f"set -eux\n{exports}{commands(page, 'pipx')}"
        root.run("runuser", "-l", "bzr", "-c", script)
    extras = "pipx runpip breezy show twisted prometheus_client"
    root.run("runuser", "-l", "bzr", "-c", extras)
    os.makedirs(root.at("source"))
    unpack = ["tar", "-C", root.at("source"), "--strip-components=1", "-xf"]
    subprocess.run([*unpack, source], check=True)
    script = f"cd /source\n{exports}{commands('installing', 'source')}"
    root.run("sh", "-euxc", script + "/opt/lpserve/bin/brz help lp-serve-ssh")
    user = commands("quickstart", "user") + "test -d copy/.bzr\nbrz info copy\n"
    texts = {"account": commands("quickstart", "account"), "user": user}
    script = _WITH_SSHD.format(**{name: f"set -eu\n{texts[name]}" for name in texts})
    root.run("unshare", "--net", "sh", "-euxc", script)


def main(suite: str, directory: str, *packages: str) -> None:
    """Do all of it."""
    missing = [path for path in packages if not os.path.exists(path)]
    if missing:
        first = "'make check-packages' or 'make dist' makes it"
        sys.exit(f"trymanual: no {missing[0]}: {first}")
    if packages[0].endswith(".whl"):
        try_pipx(suite, directory, *packages)
        return
    host, home = prepare(suite, directory, list(packages))
    with host.booted() as machine:
        for page in PAGES:
            print(f"==== {page}", flush=True)
            print(machine.sh(commands(page, "root")))
            if page == "quickstart":
                print(laptop(home, machine, commands(page, "laptop")))
                print(laptop(home, machine, "test -e copy/README; brz revno copy"))
        print(machine.sh("systemctl is-active lpserve lpserve-ssh lpserve-exporter"))
    print(f"==== {suite}: the manual is right")


if __name__ == "__main__":
    main(*sys.argv[1:])
