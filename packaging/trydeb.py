#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later

"""Builds Debian's packages in a fresh root of Debian, and tries them in another.

    trydeb.py SUITE DIRECTORY

'make check-packages' is this for SUITE bookworm. It needs root, mmdebstrap,
systemd-nspawn and the mirror of Debian, and takes some minutes. In DIRECTORY are
afterwards the packages, and both roots.

In a root with the minimum of SUITE, which systemd boots: the packages are installed;
two users push and branch through sshd with the packaged configuration, and through
lp-serve-ssh; the packages are upgraded while connections are opened and one is open;
they are purged. Nothing must be left but the branches and the account that owns them.
"""

from __future__ import annotations

import glob
import json
import os
import subprocess
import sys
import time

from roots import HERE, Machine, Root, commands

USERS = ("alice", "bob")
UNITS = "lpserve.socket lpserve lpserve-ssh lpserve-exporter"
#: Where the packages make files, besides those that dpkg knows.
PLACES = "/etc /run /srv /tmp /usr /var/cache /var/lib /var/log"
#: Files of others that change.
CHANGING = (
    r"^/(run/(motd|systemd|udev|user|dbus|utmp|lock|credentials)|var/lib/(apt|dpkg|systemd"
    r"|dbus|ucf|pam|private)|var/cache/(apt|debconf|ldconfig)|var/log/(apt|journal|dpkg"
    r"|alternatives|lastlog|wtmp|btmp|faillog)|tmp/systemd-|tmp/(load|before|after)"
    r"|etc/(passwd|group|shadow|gshadow|subuid|subgid|ld.so.cache)|usr/.*/__pycache__"
    r"|usr/share/(doc|mime|info)|etc/\.pwd\.lock|run/log)"
)

#: Keeps asking with "brz revno", and writes how that ended.
LOAD = """\
while [ ! -e /tmp/load-stop ]; do
    for port in 22 5022; do
        if said=$(brz revno bzr+ssh://bzr@127.0.0.1:$port/alice/trunk 2>&1); then
            echo "ok $port $said"
        else
            echo "failed $port $said"
        fi
    done
done >>/tmp/load-$1
"""

#: Puts the man pages of the first build where "make man" has them.
_KEEP_MAN_PAGES = """\
mkdir -p /build/source/doc/_build/man
cp /build/1/brz-lpserve-*/debian/made/*.[1-8] /build/source/doc/_build/man/
"""


def say(text: str) -> None:
    """Tell what comes next."""
    print(f"==== {text}", flush=True)


def _cache(directory: str) -> str:
    return os.path.join(os.path.dirname(os.path.abspath(directory)), "roots")


def build(suite: str, directory: str) -> tuple[list[str], list[str]]:
    """Build the packages, and once more as a newer version; the paths of both."""
    say("build")
    root = Root.create(suite, f"{directory}/build", _cache(directory))
    files = subprocess.check_output(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=HERE
    )
    os.makedirs(root.at("build/source"))
    pack = subprocess.run(
        ["tar", "-cf", "-", "--null", "--files-from=-"],
        input=files,
        cwd=HERE,
        stdout=subprocess.PIPE,
        check=True,
    )
    where = root.at("build/source")
    subprocess.run(["tar", "-C", where, "-xf", "-"], input=pack.stdout, check=True)
    # As the manual has it.
    typed = commands("installing", "builder")
    root.run("sh", "-euxc", f"cd /build/source\n{typed}mv build/deb /build/1")
    say("lintian")
    root.install("lintian")
    strict = "lintian --allow-root --fail-on error,warning"
    root.run("sh", "-c", f"{strict} /build/1/*.changes")
    say("build a newer version")
    # From a source that has the man pages, as "make dist" leaves it.
    root.run("sh", "-c", _KEEP_MAN_PAGES)
    change = "s/^\\(brz-lpserve ([^)]*\\))/\\1+new)/; 3s/.*/  * New./"
    root.run("sed", "-i", f"1{change}", "/build/source/packaging/debian/changelog")
    options = {"DEB_BUILD_OPTIONS": "nocheck"}
    root.run("/build/source/packaging/make-deb", "/build/2", "-b", **options)
    return (_packages(root, "1"), _packages(root, "2"))


def _packages(root: Root, name: str) -> list[str]:
    found = glob.glob(root.at(f"build/{name}/*.deb"))
    return sorted(each for each in found if "-dbgsym_" not in each)


def prepare(suite: str, directory: str, packages: list[str], newer: list[str]) -> Root:
    """A root with the minimum and systemd; what will be installed is downloaded."""
    say("prepare a root")
    root = Root.create(suite, f"{directory}/root", _cache(directory))
    root.install("systemd", "systemd-sysv", "dbus")
    for name, paths in (("1", packages), ("2", newer)):
        os.makedirs(root.at(f"debs/{name}"))
        for path in paths:
            subprocess.run(["cp", path, root.at(f"debs/{name}")], check=True)
    words = (
        "sh",
        "-c",
        "apt-get install -y -qq -d --no-install-recommends "
        "openssh-server /debs/1/*.deb",
    )
    root.run(*words)
    return root


def make_users(machine: Machine) -> None:
    """Accounts of people, with a key each, who are users of the host."""
    for user in USERS:
        machine.sh(f"""
            useradd -m -s /bin/sh {user}
            runuser -l {user} -c '
                mkdir -m 700 .ssh
                ssh-keygen -q -t ed25519 -N "" -f .ssh/id_ed25519
                echo "StrictHostKeyChecking accept-new" >.ssh/config
                brz whoami "{user} <{user}@example.com>"'
            key=$(cat ~{user}/.ssh/id_ed25519.pub)
            echo "command=\\"/usr/bin/lp-serve-client {user}\\",restrict $key" \\
                >>/etc/lpserve/authorized_keys
            cp ~{user}/.ssh/id_ed25519.pub /etc/lpserve/keys/{user}
        """)


def use(machine: Machine) -> None:
    """Push and branch through both ways in, as both users."""
    machine.sh(
        "brz init -q trunk; cd trunk; echo one >file; brz add -q; brz commit -qm one",
        "alice",
    )
    for user, port in (("alice", 22), ("bob", 5022)):
        machine.sh(
            f"""
            [ -d trunk ] || brz branch -q bzr+ssh://bzr@127.0.0.1/alice/trunk
            brz push -q --create-prefix -d trunk bzr+ssh://bzr@127.0.0.1:{port}/{user}/trunk
            """,
            user,
        )
    for user in USERS:
        for port in (22, 5022):
            for other in USERS:
                where = f"bzr+ssh://bzr@127.0.0.1:{port}/{other}/trunk"
                got = f"got-{port}-{other}"
                machine.sh(f"brz branch -q {where} {got}; cat {got}/file", user)
    refused = "ssh bzr@127.0.0.1 cat /etc/passwd 2>&1 || echo status $?"
    said = machine.sh(refused, "alice")
    if "only 'bzr serve --inet' is allowed" not in said or "status 64" not in said:
        raise RuntimeError(f"a command was not refused: {said}")
    if machine.sh("stat -c %U /srv/bzr/alice/trunk /srv/bzr/bob/trunk") != "bzr\nbzr\n":
        raise RuntimeError("nothing was pushed")
    print(machine.sh("brz lp-serve-setup check"))
    status = machine.sh('su -s /bin/sh -c "brz lp-serve-control status" bzr')
    print(status.strip())


def upgrade(machine: Machine) -> None:
    """Upgrade while there are connections."""
    long = machine.popen(
        "runuser", "-l", "alice", "-c", "ssh bzr@127.0.0.1 bzr serve --inet",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    _greet(long)
    loads = [machine.popen("runuser", "-l", user, "-c", f"set -- {user}\n{LOAD}")
             for user in USERS]  # fmt: skip
    _wait_for_load(machine, 4)
    generation = _generation(machine)
    before = machine.sh("systemctl show -P MainPID lpserve lpserve-ssh")
    began = time.monotonic()
    print(machine.sh("apt-get install -y -qq /debs/2/*.deb 2>&1 | tail -n 4"))
    took = time.monotonic() - began
    _wait_for_load(machine, 4)
    machine.sh("touch /tmp/load-stop")
    for load in loads:
        load.wait()
    _greet(long)
    long.stdin.close()
    if long.wait(60) != 0:
        raise RuntimeError(f"the long connection ended with {long.returncode}")
    lines = machine.sh("cat /tmp/load-alice /tmp/load-bob").splitlines()
    failed = [line for line in lines if not line.startswith("ok ")]
    print(
        f"the upgrade took {took:.1f} s; {len(lines)} connections, {len(failed)} failed"
    )
    if failed:
        raise RuntimeError("\n".join(failed))
    if machine.sh("systemctl show -P MainPID lpserve lpserve-ssh") != before:
        print("other processes serve now")
    version = machine.sh("dpkg-query -W -f '${Version}' brz-lpserve")
    if not version.endswith("+new"):
        raise RuntimeError(f"not upgraded: {version}")
    machine.sh(f"systemctl is-active {UNITS}")
    if _generation(machine) == generation:
        raise RuntimeError("the service did not reload")


def _generation(machine: Machine) -> int:
    status = "su -s /bin/sh -c 'brz lp-serve-control status --json' bzr"
    return json.loads(machine.sh(status))["generation"]


def _wait_for_load(machine: Machine, more: int) -> None:
    """Wait until each user has had some more connections."""

    def counts() -> list[int]:
        return [
            int(machine.sh(f"cat /tmp/load-{u} 2>/dev/null | wc -l || true"))
            for u in USERS
        ]

    before = counts()
    end = time.monotonic() + 300
    while any(now < was + more for now, was in zip(counts(), before, strict=True)):
        if time.monotonic() > end:
            raise RuntimeError("there are no connections any more")
        time.sleep(0.2)


def _greet(process: subprocess.Popen[bytes]) -> None:
    """Ask a smart server how it is."""
    process.stdin.write(b"hello\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer.startswith(b"ok\x01"):
        raise RuntimeError(f"no greeting but {answer!r}")


def _files(machine: Machine, name: str) -> None:
    """Write into /tmp/NAME which files there are."""
    machine.sh(f"find {PLACES} -xdev | grep -Ev '{CHANGING}' | sort >/tmp/{name}")


def purge(machine: Machine) -> None:
    """Purge, and look what is left."""
    machine.sh("apt-get purge -y -qq 'brz-lpserve*' 2>&1")
    _files(machine, "after")
    left = machine.sh("comm -13 /tmp/before /tmp/after").split()
    left = [each for each in left if not each.startswith("/srv/bzr")]
    if left:
        raise RuntimeError("left behind:\n" + "\n".join(left))
    machine.sh("test -d /srv/bzr/alice/trunk/.bzr; getent passwd bzr; sshd -t")
    said = machine.sh(
        "systemctl list-units --no-legend 'lpserve*'; ps -u bzr -o args= || true"
    )
    if said:
        raise RuntimeError(f"still running:\n{said}")


def main(suite: str, directory: str) -> None:
    """Do all of it."""
    packages, newer = build(suite, directory)
    root = prepare(suite, directory, packages, newer)
    with root.booted() as machine:
        # What the packages need is there already; we look for what is theirs.
        machine.sh(
            "apt-get install -y -qq --no-install-recommends brz "
            "openssh-server python3-twisted python3-prometheus-client"
        )
        _files(machine, "before")
        say("install")
        machine.sh("apt-get install -y -qq /debs/1/*.deb 2>&1")
        machine.sh(f"systemctl is-active {UNITS}")
        print(
            machine.sh(
                "systemctl --failed --no-legend; cat /etc/lpserve/breezy.conf; "
                "ls -la /etc/lpserve /var/lib/lpserve /srv"
            )
        )
        make_users(machine)
        say("use")
        use(machine)
        say("upgrade with connections")
        upgrade(machine)
        say("purge")
        purge(machine)
    say(f"{suite}: all is well")


if __name__ == "__main__":
    main(*sys.argv[1:])
