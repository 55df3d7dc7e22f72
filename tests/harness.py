# SPDX-License-Identifier: GPL-2.0-or-later

"""What the live tests share: a service, clients, and checks that nothing is left.

Every process that a test starts inherits a token in its environment, so that at
the end the test can tell that none is left, whoever started it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import shlex
import subprocess
import sys
import uuid
from typing import Any

from breezy.tests import TestCaseInTempDir

from ..lpserve.client import conversation
from .handmade import HELLO, Connection, SocketConnection
from .leftovers import DOORS, Leftovers  # noqa: F401 - for tests
from .waiting import DEADLINE, read_line, wait_until  # noqa: F401 - for tests

#: The directory of the plug-in.
PLUGIN = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
#: Scenarios: the same test through either.
BY_DOOR = [("fifo", {"door": "fifo"}), ("socket", {"door": "socket"})]


def descriptors_of(pid: int) -> dict[int, str]:
    """The open descriptors of *pid* and what they are open on."""
    found = {}
    with contextlib.suppress(FileNotFoundError, PermissionError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
    return found


def limit_descriptors(pid: int, count: int) -> tuple[int, int]:
    """Let a process open *count* descriptors more, and no others; its limits before."""
    used = descriptors_of(pid)
    free = [number for number in range(len(used) + count + 1) if number not in used]
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free[count], before[1]))
    return before


class LiveTestCase(Leftovers, TestCaseInTempDir):
    """A test with a service; nothing may be left when it ends.

    :cvar door: through which `connect` asks, "fifo" or "socket".
    :cvar warm: how many repositories are kept in memory.
    :cvar rehearses: whether zygotes rehearse, or take the result of an earlier one.
    """

    door = "fifo"
    warm = 0
    rehearses = False

    def setUp(self) -> None:
        super().setUp()
        self.token = uuid.uuid4().hex
        self.runtime = os.path.join(self.test_dir, "run")
        self.root = os.path.join(self.test_dir, "root")
        self.home = os.path.join(self.test_dir, "live-home")
        self.config = os.path.join(self.home, "breezy", "breezy.conf")
        self.log_path = os.path.join(self.test_dir, "service.log")
        os.makedirs(os.path.dirname(self.config))
        os.mkdir(self.root)
        self.plugins = {"lpserve": PLUGIN}
        self.service: subprocess.Popen[bytes] | None = None
        self.addCleanup(self.check_nothing_left)

    # -- processes -------------------------------------------------------------

    @property
    def env(self) -> dict[str, str]:
        """The environment of everything that the test starts."""
        return {
            "HOME": self.home,
            "BRZ_HOME": self.home,
            "XDG_CACHE_HOME": self.home,
            "BRZ_PLUGINS_AT": ":".join(f"{k}@{v}" for k, v in self.plugins.items()),
            "BRZ_PLUGIN_PATH": "-site:-user",
            "PATH": os.path.join(PLUGIN, "bin")
            + ":"
            + os.path.dirname(sys.executable)
            + ":/usr/bin:/bin:/usr/sbin",
            "LANG": "C.UTF-8",
            "LPSERVE_RUNTIME_DIR": self.runtime,
            "LPSERVE_TEST": self.token,
            # What Python says of a fork with a second thread (from 3.12).
            "PYTHONWARNINGS": "error:This process:DeprecationWarning",
        }

    def brz(self, *words: str) -> list[str]:
        """The words that run ``brz`` with these."""
        return [sys.executable, "-m", "breezy", *words]

    def run_program(
        self, words: list[str], stdin: bytes = b"", **env: str
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program to its end, within `DEADLINE`."""
        return subprocess.run(
            words,
            input=stdin,
            capture_output=True,
            env={**self.env, **env},
            cwd=self.test_dir,
            timeout=DEADLINE,
            check=False,
        )

    def run_brz(self, *words: str, **env: str) -> subprocess.CompletedProcess[bytes]:
        """Run ``brz``; it must succeed."""
        done = self.run_program(self.brz(*words), **env)
        self.assertEqual(0, done.returncode, done.stderr.decode())
        return done

    #: The stand-alone client.
    client_path = os.path.join(PLUGIN, "bin", "lp-serve-client")

    def start_client(
        self, *words: str, popen: dict[str, Any] | None = None, **env: str
    ) -> subprocess.Popen[bytes]:
        """Start the stand-alone client with pipes as its stdio."""
        return self.start_words([self.client_path, *words], popen, **env)

    def start_words(
        self, words: list[str], popen: dict[str, Any] | None = None, **env: str
    ) -> subprocess.Popen[bytes]:
        """Start a program with pipes as its stdio, which ends before the test does.

        :param popen: other arguments of `subprocess.Popen`.
        """
        stdio = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        started = subprocess.Popen(
            words,
            env={**self.env, **env},
            cwd=self.test_dir,
            **{**stdio, **(popen or {})},
        )
        self.addCleanup(self._end, started)
        return started

    def make_ssh(self, *options: str) -> str:
        """The path of a program in the place of ssh: our client, for alice."""
        path = os.path.join(self.test_dir, "".join(["ssh", *options]))
        client = shlex.join([self.client_path, *options, "alice"])
        with open(path, "w") as file:
            # Breezy asks what kind of ssh it is.
            file.write(
                f'#!/bin/sh\n[ "$1" = -V ] && echo OpenSSH >&2 && exit\nexec {client}\n'
            )
        os.chmod(path, 0o700)
        return path

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def add_plugin(self, name: str, source: str) -> None:
        """Have every Breezy that is started from now on load this plug-in."""
        path = os.path.join(self.test_dir, "plugins", name)
        os.makedirs(path)
        with open(os.path.join(path, "__init__.py"), "w") as file:
            file.write(source)
        self.plugins[name] = path

    # -- the service -----------------------------------------------------------

    def configure(self, **options: object) -> None:
        """Write ``lpserve.NAME = VALUE`` lines to breezy.conf."""
        with open(self.config, "w") as file:
            file.write("[DEFAULT]\n")
            for name, value in options.items():
                file.write(f"lpserve.{name} = {value}\n")

    def start_service(
        self, *options: str, popen: dict[str, Any] | None = None, **env: str
    ) -> subprocess.Popen[bytes]:
        """Start a service on `root` and wait until its doors are open."""
        words = ["--fork-server", "--directory", self.root, "--allow-writes"]
        words.append(f"-Olpserve.warm_repositories={self.warm}")
        with open(self.log_path, "ab") as log:
            start = log.tell()
            self.service = subprocess.Popen(
                self.brz("lp-serve", *words, *options),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**self.env, **self.rehearsed(), **env},
                cwd=self.test_dir,
                **(popen or {}),
            )
        self.addCleanup(self.stop_service, self.service)
        self.wait_for_log("Listening on ", start)
        return self.service

    def rehearsed(self) -> dict[str, str]:
        """What is in the environment of a service whose zygotes do not rehearse."""
        if self.rehearses:
            return {}
        path = os.path.join(PLUGIN, "tests", "rehearsed")
        found = os.path.join(self.TEST_ROOT, "rehearsed.json")
        return {"PYTHONPATH": path, "LPSERVE_TEST_REHEARSED": found}

    def log_text(self, start: int = 0) -> str:
        """What the service has logged."""
        with open(self.log_path, "rb") as log:
            log.seek(start)
            return log.read().decode("utf-8", "replace")

    def wait_for_log(self, text: str, start: int = 0) -> str:
        """Wait until the service has logged *text*; the log from *start*."""

        def found() -> str | None:
            log = self.log_text(start)
            if text in log:
                return log
            if self.service is not None and self.service.poll() is not None:
                raise AssertionError(f"the service ended without {text!r}: {log}")
            return None

        return wait_until(found, f"{text!r} in the service's log")

    def stop_service(self, service: subprocess.Popen[bytes] | None = None) -> int:
        """Stop the service at once; its exit status."""
        service = service or self.service
        assert service is not None
        if service.poll() is None:
            with contextlib.suppress(conversation.NoService):
                conversation.ask(self.runtime, ["shutdown", "now"], DEADLINE)
        return service.wait(DEADLINE)

    def ask(self, *words: str) -> list[str]:
        """One request; the words of its first answer."""
        return conversation.ask(self.runtime, list(words), DEADLINE)

    def status(self) -> dict[str, Any]:
        """What the service says of itself."""
        return json.loads(self.ask("status")[1])

    def settled_status(self) -> dict[str, Any]:
        """The status once no worker is busy and the spare ones are there."""

        def settled() -> dict[str, Any] | None:
            status = self.status()
            workers = status["workers"]
            if workers["busy"] or workers["waiting"] or workers["starting"]:
                return None
            return status

        return wait_until(settled, "the service has come to rest")

    def wait_for_totals(self, **expected: int) -> None:
        """Wait until the service has counted so many.

        A worker that says that it leaves is not busy any more; its connection is
        counted when it is reaped.
        """

        def counted() -> bool:
            totals = self.status()["totals"]
            return all(totals[name] == number for name, number in expected.items())

        wait_until(counted, f"it has counted {expected}")

    def rest(self, spares: int = 2, descriptors: int | None = None) -> int:
        """Wait until this many workers are spare and no others; open descriptors.

        :param descriptors: how many those are to be, if it matters.
        """

        def at_rest() -> int | None:
            status = self.settled_status()
            if status["workers"]["spare"] != spares:
                return None
            found = status["descriptors"]
            return found if descriptors in (None, found) else None

        return wait_until(at_rest, f"{spares} spare workers, {descriptors} descriptors")

    def connect(
        self, user: str = "alice", door: str | None = None, **env: str
    ) -> Connection:
        """Ask for a worker; the FIFOs, if it is these, are not opened yet.

        :param door: "fifo" or "socket" instead of the test's.
        """
        made = self.ask_worker(user, door, **env)
        made.wait()
        return made

    def ask_worker(
        self, user: str = "alice", door: str | None = None, **env: str
    ) -> Connection:
        """Make the request for a worker."""
        by_socket = (door or self.door) == "socket"
        made = (SocketConnection if by_socket else Connection)(self.runtime, user, env)
        self.addCleanup(made.close)
        self.addCleanup(made.conversation.close)
        return made

    def serve(
        self, *users: str, doors: tuple[str, ...] = ("fifo", "socket")
    ) -> list[Connection]:
        """Make connections that are in use, through each of the doors in turn."""
        asked = [
            self.ask_worker(user, door)
            for user, door in zip(users, itertools.cycle(doors))
        ]
        for connection in asked:
            self.assertEqual("ok", connection.wait()[0], connection.answer)
            self.assertEqual(HELLO, connection.open().hello())
        return asked

    def finish(self, *connections: Connection) -> None:
        """Have open connections answer once more, and end with status 0."""
        for connection in connections:
            self.assertEqual(HELLO, connection.hello())
            connection.close()
            self.assertEqual(["exit", "0"], connection.end())

    def check_serves(
        self,
        user: str = "alice",
        doors: tuple[str, ...] = ("fifo", "socket"),
        **env: str,
    ) -> None:
        """Make a whole connection through each of these doors."""
        for door in doors:
            connection = self.connect(user, door, **env)
            self.assertEqual("ok", connection.answer[0], connection.answer)
            self.finish(connection.open())

    def write_control(self, data: bytes) -> None:
        """Write raw bytes to the control FIFO."""
        control = os.open(os.path.join(self.runtime, "control"), os.O_WRONLY)
        try:
            os.write(control, data)
        finally:
            os.close(control)
