# SPDX-License-Identifier: GPL-2.0-or-later

"""Root directories of Debian, in which packages are built and tried.

Also the commands of the manual that are typed there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(HERE, "doc", "_ext"))

from blocks import find_blocks  # noqa: E402

MIRROR = os.environ.get("MIRROR", "http://deb.debian.org/debian")

#: Runs "$@" in the root $0, with a /proc and /dev of its own.
_CHROOT = """\
mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot "$0" "$@"
"""

#: Older systemd-nspawn refuses them, and workers would have no sandbox.
_LANDLOCK = "landlock_create_ruleset landlock_add_rule landlock_restrict_self"


def commands(page: str, *kinds: str) -> str:
    """The commands of some kinds in a page of the manual."""
    with open(f"{HERE}/doc/{page}.rst", encoding="utf-8") as file:
        found = find_blocks(file.read())
    return "".join(each.text for each in found if each.kind in kinds)


class Root:
    """A root directory; its programs are run as root.

    :ivar path: where it is.
    """

    def __init__(self, path: str):
        self.path = os.path.abspath(path)

    @classmethod
    def create(cls, suite: str, path: str, cache: str) -> Root:
        """Create one with the minimum of *suite* and apt.

        :param cache: a directory, in which the minimum is kept as SUITE.tar.
        """
        minimum = os.path.join(cache, f"{suite}.tar")
        if not os.path.exists(minimum):
            os.makedirs(cache, exist_ok=True)
            words = ["mmdebstrap", "--variant=minbase", suite, minimum + ".new", MIRROR]
            subprocess.run([*words[:-2], "--format=tar", *words[-2:]], check=True)
            os.rename(minimum + ".new", minimum)
        if os.path.exists(path):
            shutil.rmtree(path)
        os.makedirs(path)
        subprocess.run(["tar", "-C", path, "-xf", minimum], check=True)
        root = cls(path)
        shutil.copy("/etc/resolv.conf", root.at("etc/resolv.conf"))
        root.run("apt-get", "update", "-qq")
        return root

    def at(self, name: str) -> str:
        """The path of a file in it, from outside."""
        return os.path.join(self.path, name.lstrip("/"))

    def run(self, *words: str, **env: str) -> None:
        """Run a command; its output is ours.

        :raises subprocess.CalledProcessError: if it fails.
        """
        apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        subprocess.run(
            [*apart, "sh", "-c", _CHROOT, self.path, *words],
            stdin=subprocess.DEVNULL,
            env={**_environment(), **env},
            check=True,
        )

    def install(self, *names: str, options: tuple[str, ...] = ()) -> None:
        """Install packages, names or paths inside, without those recommended."""
        words = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *options]
        self.run(*words, *names)

    @contextlib.contextmanager
    def booted(self) -> Iterator[Machine]:
        """Boot its systemd, with a network of its own; it is halted at the end."""
        words = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit"]
        words += ["--system-call-filter=" + _LANDLOCK, "--private-network"]
        words += ["--console=pipe", "--directory", self.path]
        with open(self.path + ".console", "wb") as console:
            process = subprocess.Popen(
                [*words, "--boot"],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
            )
        try:
            yield Machine(process)
        finally:
            process.terminate()  # systemd halts
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Machine:
    """A root that is booted."""

    def __init__(self, process: subprocess.Popen[bytes]):
        self._process = process
        self._leader = self._wait(self._find_leader)
        self._wait(self._is_up)

    def _wait(self, ready):
        end = time.monotonic() + 120
        while not (found := ready()):
            if time.monotonic() > end or self._process.poll() is not None:
                raise RuntimeError("it does not boot; see the file *.console")
            time.sleep(0.1)
        return found

    def _find_leader(self) -> str:
        with open(
            f"/proc/{self._process.pid}/task/{self._process.pid}/children"
        ) as file:
            for pid in file.read().split():
                with contextlib.suppress(OSError):
                    if os.path.basename(os.readlink(f"/proc/{pid}/exe")) == "systemd":
                        return pid
        return ""

    def _is_up(self) -> bool:
        done = subprocess.run(
            self.words("systemctl", "is-system-running"),
            capture_output=True,
            env=_environment(),
            text=True,
            check=False,
        )
        return done.stdout.strip() in ("running", "degraded")

    def words(self, *words: str) -> list[str]:
        """The command that runs *words* inside."""
        return ["nsenter", "--target", self._leader, "-a", "-r", "-w", "--", *words]

    def sh(self, script: str, user: str = "root") -> str:
        """Run a shell script as *user*; its output.

        :raises RuntimeError: if it fails, with its output.
        """
        done = subprocess.run(
            self.words("runuser", "-l", user, "-c", "set -eu\n" + script),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(),
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"status {done.returncode} of\n{script}\n{done.stdout}")
        return done.stdout

    def popen(self, *words: str, **keywords: object) -> subprocess.Popen[bytes]:
        """Start a command inside."""
        return subprocess.Popen(self.words(*words), env=_environment(), **keywords)


def _environment() -> dict[str, str]:
    return {
        "DEBIAN_FRONTEND": "noninteractive",
        "HOME": "/root",
        "LC_ALL": "C.UTF-8",
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    }
