# SPDX-License-Identifier: GPL-2.0-or-later

"""Runs the two servers of the demonstration, and measures their connections."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable

from place import DEADLINE, USER, DemoError, Place, brz, end

REVISIONS = 300
ROUNDS = 7
SIDES = ("before", "after")
HELLO = "until the server says hello"
SERVE = "bzr serve --inet --directory=/ --allow-writes"


class Demo(Place):
    """The servers, branches and clients of the demonstration.

    :param stage: an empty directory.
    """

    def __init__(self, stage: str):
        self.token = f"LPSERVE_DEMO={uuid.uuid4().hex}"
        name, _, value = self.token.partition("=")
        super().__init__(stage, {name: value})
        self.servers: list[subprocess.Popen[bytes]] = []
        self.urls: dict[str, str] = {}
        self._ports: dict[str, int] = {}

    # -- setting up ------------------------------------------------------------

    def make_branches(self) -> None:
        """Create a branch with a history, and copies of it for both sides."""
        os.mkdir(self.path("home"))
        self.make_client()
        self.make_branch(REVISIONS, "source")
        for side in SIDES:
            self.copy_branch("server", side, "trunk")
            shutil.copytree(self.path("source"), self.path(side, "source"))

    def start_servers(self) -> None:
        """Start the service, and two SSH servers, one with and one without it."""
        # The processes of the server without the service read breezy.conf.
        os.makedirs(self.path("home", "breezy"), exist_ok=True)
        with open(self.path("home", "breezy", "breezy.conf"), "w") as config:
            config.write(
                "[DEFAULT]\n"
                f"lpserve.directory = {self.path('server', 'before')}\n"
                "lpserve.allow_writes = True\n"
            )
        self.servers.append(self.start_service(self.path("server", "after")))
        for side in SIDES:
            options = (f"-Olpserve.runtime_dir={self.path('no-service')}",)
            process, port = self.start_ssh_server(
                f"ssh-{side}", 0, *(options if side == "before" else ())
            )
            self.servers.append(process)
            self._ports[side] = port
            self.urls[side] = f"bzr+ssh://{USER}@127.0.0.1:{port}"

    # -- measurements ----------------------------------------------------------

    def run(self, words: list[str], side: str = "") -> tuple[float, str]:
        """Run a program to its end; the seconds it took and what it printed."""
        start = time.perf_counter()
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.env,
            cwd=self.path(side),
            timeout=DEADLINE,
            check=False,
        )
        seconds = time.perf_counter() - start
        text = done.stdout.decode("utf-8", "replace").strip()
        if done.returncode:
            shown = " ".join(words[-4:])
            raise DemoError(f"{shown}: exit status {done.returncode}: {text[-300:]}")
        return seconds, text

    def execute(self, side: str, command: str, until: bytes) -> float:
        """Seconds from the start of an ssh client until the server answers *until*.

        *until* is part of its answer to ``hello``, or of an error.
        """
        start = time.perf_counter()
        said = b""
        if self.ssh:
            where = ["-p", str(self._ports[side]), f"{USER}@127.0.0.1"]
            with subprocess.Popen(
                [self.path("ssh"), *where, command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=self.env,
            ) as process:
                assert process.stdin is not None and process.stdout is not None
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(b"hello\n")
                    process.stdin.flush()
                said = process.stdout.readline()
                seconds = time.perf_counter() - start
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
        else:
            import paramiko

            key = paramiko.RSAKey.from_private_key_file(
                self.path("home", ".ssh", "id_rsa")
            )
            with paramiko.Transport(("127.0.0.1", self._ports[side])) as transport:
                transport.connect(username=USER, pkey=key)
                channel = transport.open_session()
                channel.set_combine_stderr(True)
                channel.exec_command(command)
                with contextlib.suppress(OSError):  # it may be closed
                    channel.sendall(b"hello\n")
                while not said.endswith(b"\n") and (more := channel.recv(100)):
                    said += more
                seconds = time.perf_counter() - start
        if until not in said:
            raise DemoError(f"the server said {said!r}")
        return seconds

    def jobs(self) -> dict[str, Callable[[str], float]]:
        """A function for each line of the table, which measures one side."""

        def command(*words: str) -> Callable[[str], float]:
            return lambda side: self.run(
                brz(*(word.format(url=self.urls[side]) for word in words)), side
            )[0]

        def push(side: str) -> float:
            source = self.path(side, "source")
            self.run(brz("pull", "-q", "-d", source, self.path("source")))
            return command("push", "-q", "-d", "source", "{url}/trunk")(side)

        def branch(side: str) -> float:
            shutil.rmtree(self.path(side, "whole"), ignore_errors=True)
            return command("branch", "-q", "{url}/trunk", "whole")(side)

        return {
            HELLO: lambda side: self.execute(side, SERVE, b"ok\x012\n"),
            "brz revno": command("revno", "{url}/trunk"),
            "brz push, one new revision": push,
            "brz pull, that revision": command("pull", "-q", "-d", "mine"),
            "brz pull, nothing new": command("pull", "-q", "-d", "mine"),
            f"brz branch, {REVISIONS} revisions": branch,
        }

    def measure(self) -> dict[str, dict[str, list[float]]]:
        """Measure all jobs at both sides in turn; seconds by job and side."""
        times: dict[str, dict[str, list[float]]] = {"ssh alone": {"both": []}}
        times["brz alone"] = {"both": []}
        jobs = self.jobs()
        for turn in range(ROUNDS):
            if sys.stdout.isatty():
                print(f"\r  round {turn + 1} of {ROUNDS}", end="", flush=True)
            self.commit(1)
            login = self.execute("after", "true", b"is allowed")
            times["ssh alone"]["both"].append(login)
            alone, _ = self.run(brz("revno", self.path("source")))
            times["brz alone"]["both"].append(alone)
            for name, job in jobs.items():
                # The order of the sides alternates.
                for side in SIDES if turn % 2 else SIDES[::-1]:
                    kept = times.setdefault(name, {each: [] for each in SIDES})
                    kept[side].append(job(side))
        if sys.stdout.isatty():
            print("\r" + " " * 40 + "\r", end="", flush=True)
        return times

    def compare(self) -> str:
        """The last revisions at the two servers, which have to be the same."""
        from breezy.branch import Branch

        found = []
        for side in SIDES:
            branch = Branch.open(self.path("server", side, "trunk"))
            found.append(branch.last_revision_info())
        if found[0] != found[1] or found[0] != self.tree.branch.last_revision_info():
            raise DemoError(f"the two servers do not have the same: {found}")
        for side in SIDES:
            self.run(brz("check", self.path("server", side, "trunk")))
        return f"revision {found[0][0]}"

    # -- cleanup ---------------------------------------------------------------

    def clear(self) -> None:
        """End every process and remove every file."""
        for server in reversed(self.servers):
            end(server)
        last = time.monotonic() + 10
        while left := self._processes():
            if time.monotonic() > last:
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _processes(self) -> list[int]:
        """The processes that we have started, directly or not, by their token."""
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            path = f"/proc/{name}/environ"
            with contextlib.suppress(OSError), open(path, "rb") as environ:
                if self.token.encode() in environ.read().split(b"\0"):
                    found.append(int(name))
        return [pid for pid in found if pid != os.getpid()]
