# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""The stage of the demonstration: a server before and after, and what they do."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable

CHECKOUT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(CHECKOUT, "tests", "live"))

import sshd  # noqa: E402

REVISIONS = 300
ROUNDS = 7
DEADLINE = 60.0
SIDES = ("before", "after")
HELLO = "until the server says hello"
SERVE = ("bzr", "serve", "--inet", "--directory=/", "--allow-writes")


class DemoError(Exception):
    """The demonstration cannot go on; ``str()`` says why, in a line."""


class Demo:
    """The stage, and everything on it.

    :param stage: an empty directory.
    """

    def __init__(self, stage: str):
        self.stage = stage
        self.token = f"LPSERVE_DEMO={uuid.uuid4().hex}"
        self.env: dict[str, str] = {}
        self.sshd: sshd.Sshd | None = None
        self.service: subprocess.Popen[bytes] | None = None

    def path(self, *names: str) -> str:
        """A path on the stage."""
        return os.path.join(self.stage, *names)

    def _environment(self) -> dict[str, str]:
        name, _, value = self.token.partition("=")
        env = {
            name: value,
            "HOME": self.path("home"),
            "BRZ_HOME": self.path("home"),
            "XDG_CACHE_HOME": self.path("home"),
            "BRZ_EMAIL": "Demo <demo@example.com>",
            "BRZ_SSH": self.path("sshd", "ssh"),
            "LPSERVE_RUNTIME_DIR": self.path("run"),
            "LANG": "C.UTF-8",
            "PATH": os.pathsep.join(
                [
                    os.path.dirname(sys.executable),
                    os.path.join(CHECKOUT, "bin"),
                    os.environ.get("PATH", os.defpath),
                ]
            ),
        }
        if plugins := self._plugins():
            env["BRZ_PLUGINS_AT"] = plugins
        return env

    @staticmethod
    def _plugins() -> str | None:
        """What BRZ_PLUGINS_AT has to be: the plug-in may not be installed."""
        if "BRZ_PLUGINS_AT" in os.environ:
            return os.environ["BRZ_PLUGINS_AT"]
        import breezy.plugins

        if any(os.path.isdir(f"{path}/lpserve") for path in breezy.plugins.__path__):
            return None
        return f"lpserve@{CHECKOUT}"

    # -- setting up ------------------------------------------------------------

    def make_branches(self) -> None:
        """A branch with a history, and the same again."""
        self.env = self._environment()
        os.environ.update(self.env)
        os.mkdir(self.path("home"))
        for side in SIDES:
            os.makedirs(self.path("server", side))
        import breezy.bzr
        from breezy.controldir import ControlDir, format_registry

        breezy.initialize(setup_ui=False)
        place = self.path("source")
        self.tree = ControlDir.create_standalone_workingtree(
            place, format_registry.make_controldir("default")
        )
        self.commit(REVISIONS)
        self.tree.branch.repository.pack()
        for side in SIDES:
            target = self.path("server", side, "trunk", ".bzr")
            shutil.copytree(os.path.join(place, ".bzr"), target)
            shutil.rmtree(os.path.join(target, "checkout"))
            shutil.copytree(place, self.path(side, "source"))

    def commit(self, count: int) -> None:
        """Commit to the source."""
        tree = self.tree
        with tree.lock_write():
            for _ in range(count):
                number = tree.branch.revno() + 1
                name = f"file{number % 20:02}.txt"
                with open(os.path.join(tree.basedir, name), "a") as file:
                    file.write(f"What revision {number} has to say.\n" * 5)
                if not tree.is_versioned(name):
                    tree.add([name])
                tree.commit(f"Revision {number}", reporter=_Silence())

    def start_service(self) -> str:
        """Start the fork service; what it said when it was ready."""
        log = self.path("service.log")
        options = ["--directory", self.path("server", "after"), "--allow-writes"]
        env = {k: v for k, v in self.env.items() if k not in ("BRZ_EMAIL", "BRZ_SSH")}
        with open(log, "wb") as file:
            self.service = subprocess.Popen(
                brz("lp-serve", "--fork-server", *options),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=env,
                cwd=self.stage,
                start_new_session=True,
            )
        deadline = time.monotonic() + DEADLINE
        while True:
            with open(log) as file:
                text = file.read()
            if "Listening on " in text:
                return text
            if self.service.poll() is not None or time.monotonic() > deadline:
                lines = text.strip().splitlines() or ["it said nothing"]
                raise DemoError(f"the service did not start: {lines[-1]}")
            time.sleep(0.01)

    def start_sshd(self) -> dict[str, str]:
        """Start sshd; the forced command of each side."""
        hidden = ("BRZ_EMAIL", "BRZ_SSH")
        env = {k: v for k, v in self.env.items() if k not in hidden}
        self.sshd = sshd.Sshd(self.path("sshd"), env)
        served = f"--directory={self.path('server', 'before')}"
        words = ["brz", "serve", "--inet", served, "--allow-writes"]
        commands = {"before": shlex.join(words), "after": "lp-serve-client alice"}
        if not os.access(os.path.join(os.path.dirname(sys.executable), "brz"), os.X_OK):
            raise DemoError(f"there is no brz beside {sys.executable}")
        for side, command in commands.items():
            self.sshd.allow(side, command)
        self.sshd.allow("ssh-alone", "cat")
        self.sshd.start(env)
        return commands

    # -- what is measured ------------------------------------------------------

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

    def hello(self, side: str, expected: bytes = b"ok\x012\n") -> float:
        """Seconds until the smart server has answered ``hello``."""
        start = time.perf_counter()
        process = subprocess.Popen(
            [self.env["BRZ_SSH"], side, *SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self.env,
        )
        assert process.stdin is not None and process.stdout is not None
        with process:
            process.stdin.write(b"hello\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            seconds = time.perf_counter() - start
            process.stdin.close()
        if answer != expected:
            raise DemoError(f"the answer to hello was {answer!r}")
        return seconds

    def jobs(self) -> dict[str, Callable[[str], float]]:
        """What is measured: for each line of the table how to measure a side."""

        def command(*words: str) -> Callable[[str], float]:
            return lambda side: self.run(
                brz(*(word.format(side=side) for word in words)), side
            )[0]

        def push(side: str) -> float:
            source = self.path(side, "source")
            self.run(brz("pull", "-q", "-d", source, self.path("source")))
            return command("push", "-q", "-d", "source", "bzr+ssh://{side}/trunk")(side)

        def branch(side: str) -> float:
            shutil.rmtree(self.path(side, "whole"), ignore_errors=True)
            return command("branch", "-q", "bzr+ssh://{side}/trunk", "whole")(side)

        return {
            HELLO: self.hello,
            "brz revno": command("revno", "bzr+ssh://{side}/trunk"),
            "brz push, one new revision": push,
            "brz pull, that revision": command("pull", "-q", "-d", "mine"),
            "brz pull, nothing new": command("pull", "-q", "-d", "mine"),
            f"brz branch, {REVISIONS} revisions": branch,
        }

    def measure(self) -> dict[str, dict[str, list[float]]]:
        """All jobs at both sides in turn: seconds by job and side."""
        times: dict[str, dict[str, list[float]]] = {"ssh alone": {"both": []}}
        times["brz alone"] = {"both": []}
        jobs = self.jobs()
        for turn in range(ROUNDS):
            if sys.stdout.isatty():
                print(f"\r  round {turn + 1} of {ROUNDS}", end="", flush=True)
            self.commit(1)
            times["ssh alone"]["both"].append(self.hello("ssh-alone", b"hello\n"))
            alone, _ = self.run(brz("revno", self.path("source")))
            times["brz alone"]["both"].append(alone)
            for name, job in jobs.items():
                # Whoever is first in one round is second in the next.
                for side in SIDES if turn % 2 else SIDES[::-1]:
                    kept = times.setdefault(name, {each: [] for each in SIDES})
                    kept[side].append(job(side))
        if sys.stdout.isatty():
            print("\r" + " " * 40 + "\r", end="", flush=True)
        return times

    def compare(self) -> str:
        """What the two servers now have, which has to be the same."""
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

    # -- afterwards ------------------------------------------------------------

    def clear(self) -> None:
        """End every process and remove every file."""
        if self.sshd is not None:
            self.sshd.kill()
        if self.service is not None:
            # The second one does not wait for connections.
            for _ in range(2):
                self.service.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.service.wait(2)
        end = time.monotonic() + 10
        while left := self._processes():
            if time.monotonic() > end:
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        if self.service is not None:
            self.service.wait()
        shutil.rmtree(self.stage, ignore_errors=True)

    def _processes(self) -> list[int]:
        """What we have started, directly or not: it has our token."""
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            path = f"/proc/{name}/environ"
            with contextlib.suppress(OSError), open(path, "rb") as environ:
                if self.token.encode() in environ.read().split(b"\0"):
                    found.append(int(name))
        return [pid for pid in found if pid != os.getpid()]


class _Silence:
    """A commit reporter that does not report."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def brz(*words: str) -> list[str]:
    """The words that run ``brz`` with these."""
    return [sys.executable, "-m", "breezy", *words]
