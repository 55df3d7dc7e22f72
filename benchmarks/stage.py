# SPDX-License-Identifier: GPL-2.0-or-later

"""Where it is measured: temporary directories, and services of our own in them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import Any

#: The directory of the plug-in.
PLUGIN = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if PLUGIN not in sys.path:
    sys.path.insert(0, PLUGIN)

from lpserve.client import conversation  # noqa: E402

#: Seconds until something that should happen is taken not to.
DEADLINE = 120.0
#: What a smart server answers to ``hello``.
HELLO = b"ok\x012\n"
USER = "alice"
#: The doors of a service, and an option of its that has it keep spare workers.
SOCKET, FIFO = DOORS = "socket", "fifo"
#: Seconds that a spare worker which is there has to get ready.
_GET_READY = 0.02
_PREFIX = "lpserve-benchmark-"


class BenchmarkError(Exception):
    """It cannot be measured; ``str()`` says why."""


def wait_until(ready: Callable[[], Any], what: str) -> Any:
    """Wait for something that nothing announces; what *ready* then returns."""
    end = time.monotonic() + DEADLINE
    while not (result := ready()):
        if time.monotonic() > end:
            raise BenchmarkError(f"not within {DEADLINE:.0f} s: {what}")
        time.sleep(0.005)
    return result


class Stage:
    """A temporary directory with a home and a root that is served.

    :ivar path: the directory.
    :ivar runtime: one for runtime directories, in memory if there is such a place:
        /run and $XDG_RUNTIME_DIR, where they belong, are.
    :ivar root: what is served.
    :ivar errors: a file for what programs say on standard error.
    """

    def __init__(self) -> None:
        self.path = tempfile.mkdtemp(prefix=_PREFIX)
        places = (os.environ.get("XDG_RUNTIME_DIR"), "/dev/shm")
        usable = (each for each in places if each and os.access(each, os.W_OK))
        self.runtime = tempfile.mkdtemp(prefix=_PREFIX, dir=next(usable, self.path))
        self.root = os.path.join(self.path, "root")
        os.mkdir(self.root)
        self.errors = os.path.join(self.path, "errors")
        # The one beside this Python.
        beside = os.path.join(os.path.dirname(sys.executable), "brz")
        there = os.access(beside, os.X_OK)
        self.brz = [beside] if there else [sys.executable, "-m", "breezy"]

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *exc: object) -> None:
        for path in (self.path, self.runtime):
            shutil.rmtree(path, ignore_errors=True)

    def environ(self, home: str, plugin: str | None = None) -> dict[str, str]:
        """An environment that keeps the account's own settings out of this.

        :param plugin: the checkout of lpserve that Breezy finds, if any.
        """
        home = os.path.join(self.path, home)
        os.makedirs(os.path.join(home, "breezy"), exist_ok=True)
        places = (os.path.dirname(sys.executable), "/usr/local/bin:/usr/bin:/bin")
        environ = dict.fromkeys(("HOME", "BRZ_HOME", "XDG_CACHE_HOME"), home)
        environ |= {"LANG": "C.UTF-8", "PATH": ":".join(places)}
        environ["BRZ_PLUGIN_PATH"] = "-site:-user"
        if plugin:
            environ["BRZ_PLUGINS_AT"] = f"lpserve@{plugin}"
        return environ

    def inet_words(self) -> list[str]:
        """What sshd runs for every connection today."""
        words = ["serve", "--inet", f"--directory={self.root}", "--allow-writes"]
        return [*self.brz, *words]

    def service(
        self, name: str = "lpserve", plugin: str = PLUGIN, **settings: object
    ) -> Service:
        """A service with these ``lpserve.*`` settings; a context manager.

        :param plugin: the checkout of lpserve that it runs.
        """
        return Service(self, name, plugin, settings)


class Daemon:
    """A program of Breezy's that runs while this is entered, and logs where it listens.

    :ivar pid: its pid.
    :ivar environ: its environment, which may be changed before it is started.
    """

    def __init__(self, stage: Stage, name: str, environ: dict[str, str]):
        self._stage = stage
        self._log_path = os.path.join(stage.path, name + ".log")
        self.environ = environ

    def start(self, *words: str) -> str:
        """Run ``brz`` with these; where it listens."""
        with open(self._log_path, "wb") as log:
            self._process = subprocess.Popen(
                [*self._stage.brz, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environ,
                cwd=self._stage.path,
                # A Ctrl-C is for us, and we stop it.
                start_new_session=True,
            )
        self.pid = self._process.pid
        try:
            return str(wait_until(self._listens, f"{words[0]} listens"))
        except BaseException:
            self.kill()
            raise

    def _listens(self) -> str | None:
        if self._process.poll() is not None:
            raise BenchmarkError(f"a server has ended:\n{self.log_text()}")
        found = re.search(r"Listening on (.*)\n", self.log_text())
        return found and found[1]

    def stop(self) -> None:
        """Wait until it has stopped."""
        try:
            self._process.wait(DEADLINE)
        except BaseException as error:
            self.kill()
            if isinstance(error, subprocess.TimeoutExpired):
                raise BenchmarkError("a server did not stop") from None
            raise

    def kill(self) -> None:
        """Stop it at once, with its children."""
        for pid in [*self.children(), self.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def log_text(self) -> str:
        """What it has logged."""
        with open(self._log_path, encoding="utf-8", errors="replace") as log:
            return log.read()

    def children(self) -> list[int]:
        """The pids of its children: of a service, the zygote and the workers."""
        children = f"/proc/{self.pid}/task/{self.pid}/children"
        # Not every kernel has this file.
        with contextlib.suppress(OSError), open(children) as file:
            return [int(pid) for pid in file.read().split()]
        return children_of([self.pid])


class Service(Daemon):
    """A service.

    :ivar directory: its runtime directory.
    :ivar plugin: the checkout of lpserve that it runs.
    :ivar zygote: the pid of its zygote.
    """

    def __init__(
        self, stage: Stage, name: str, plugin: str, settings: dict[str, object]
    ):
        self.directory = os.path.join(stage.runtime, name)
        self.plugin = plugin
        super().__init__(stage, name, stage.environ(name, plugin))
        settings = {
            "runtime_dir": self.directory,
            "directory": stage.root,
            "allow_writes": True,
            **settings,
        }
        self.spares = int(str(settings.get("spare_workers", 2)))
        home = self.environ["HOME"]
        self._configuration = os.path.join(home, "breezy", "breezy.conf")
        with open(self._configuration, "w") as file:
            file.write("[DEFAULT]\n")
            for option, value in settings.items():
                file.write(f"lpserve.{option} = {value}\n")

    def add_plugin(self, name: str, text: str) -> None:
        """Have its Breezy load a plug-in, before it is started."""
        place = os.path.join(self._stage.path, name)
        os.makedirs(place, exist_ok=True)
        with open(os.path.join(place, "__init__.py"), "w") as file:
            file.write(text)
        self.environ["BRZ_PLUGINS_AT"] += f":{name}@{place}"

    def let_configuration_age(self) -> None:
        """Wait until nobody doubts what is read of its breezy.conf, as is usual.

        A worker reads anew a file that was written just now: what is written to it in
        the same tick of the clock does not show in its times.
        """
        from lpserve.zygote import reset  # and Breezy, which others do not need

        age = time.time() - os.stat(self._configuration).st_ctime
        time.sleep(max(0.0, reset.SETTLED - age) + 0.1)

    def __enter__(self) -> Service:
        self.start("lp-serve", "--fork-server")
        self.zygote = self.settle()["zygote"]
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(conversation.NoService):
            conversation.ask(self.directory, ["shutdown", "now"], DEADLINE)
        self.stop()

    def status(self) -> dict[str, Any]:
        """What the service says of itself."""
        answer = conversation.ask(self.directory, ["status"], DEADLINE)
        found: dict[str, Any] = json.loads(answer[1])
        return found

    def settle(self) -> dict[str, Any]:
        """Wait until it has nothing to do and its spare workers; its status."""

        def settled() -> dict[str, Any] | None:
            status = self.status()
            workers = status["workers"]
            quiet = not (workers["busy"] or workers["waiting"] or workers["starting"])
            return status if quiet and workers["spare"] >= self.spares else None

        found: dict[str, Any] = wait_until(settled, "the service has come to rest")
        self._wait_idle()
        return found

    def _wait_idle(self) -> None:
        """Wait until its workers do nothing, without asking it.

        A spare worker is counted when it is there, not when it has got ready.
        """
        time.sleep(_GET_READY)
        wait_until(
            lambda: all(state_and_parent(pid)[0] in "S" for pid in self.children()),
            "the spare workers are ready",
        )

    def wait_for_spares(self, busy: int = 0) -> None:
        """Wait until it has its zygote, its spare workers and so many others.

        Without asking it, which would be counted.
        """
        number = 1 + self.spares + busy
        wait_until(lambda: len(self.children()) == number, "spare workers only")
        self._wait_idle()


def state_and_parent(pid: int) -> tuple[str, int]:
    """The state of a process as /proc shows it ("" if there is none), its parent."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
        return fields[0], int(fields[1])
    return "", 0


def children_of(pids: Iterable[int]) -> list[int]:
    """Of processes, those that run."""
    parents = set(pids)
    everybody = map(int, filter(str.isdigit, os.listdir("/proc")))
    return [pid for pid in everybody if state_and_parent(pid)[1] in parents]


def check_hello(answer: bytes) -> None:
    """Only a right answer counts."""
    if answer != HELLO:
        raise BenchmarkError(f"the answer to hello is {answer!r}")
