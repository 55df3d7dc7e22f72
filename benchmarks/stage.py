# SPDX-License-Identifier: GPL-2.0-or-later

"""Temporary directories to measure in, and services and other daemons in them."""

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
from lpserve.service import processes  # noqa: E402

#: Seconds after which a wait fails.
DEADLINE = 120.0
#: What a smart server answers to ``hello``.
HELLO = b"ok\x012\n"
USER = "alice"
#: The doors of a service, as the client calls them.
SOCKET, FIFO = DOORS = "socket", "fifo"
#: Seconds in which a spare worker that was forked begins to get ready.
_GET_READY = 0.02
_PREFIX = "lpserve-benchmark-"


class BenchmarkError(Exception):
    """The measurement failed; ``str()`` says why."""


def wait_until(ready: Callable[[], Any], what: str) -> Any:
    """Wait until *ready* returns something true, which is returned."""
    end = time.monotonic() + DEADLINE
    while not (result := ready()):
        if time.monotonic() > end:
            raise BenchmarkError(f"not within {DEADLINE:.0f} s: {what}")
        time.sleep(0.005)
    return result


class Stage:
    """A temporary directory with a home and a root that is served.

    :ivar path: the directory.
    :ivar runtime: a directory for runtime directories, in a tmpfs if there is one, as
        /run is.
    :ivar root: the directory that is served.
    :ivar errors: a file for the standard error of programs.
    """

    def __init__(self) -> None:
        self.path = tempfile.mkdtemp(prefix=_PREFIX)
        places = (os.environ.get("XDG_RUNTIME_DIR"), "/dev/shm")
        usable = (each for each in places if each and os.access(each, os.W_OK))
        self.runtime = tempfile.mkdtemp(prefix=_PREFIX, dir=next(usable, self.path))
        self.root = os.path.join(self.path, "root")
        os.mkdir(self.root)
        self.errors = os.path.join(self.path, "errors")
        beside = os.path.join(os.path.dirname(sys.executable), "brz")
        there = os.access(beside, os.X_OK)
        self.brz = [beside] if there else [sys.executable, "-m", "breezy"]

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *exc: object) -> None:
        for path in (self.path, self.runtime):
            shutil.rmtree(path, ignore_errors=True)

    def environ(self, home: str, plugin: str | None = None) -> dict[str, str]:
        """An environment without the settings of the account that runs this.

        :param home: the name of a home directory, which is created.
        :param plugin: the checkout of lpserve that Breezy loads, if any.
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
        """The command that sshd runs for every connection without lpserve."""
        words = ["serve", "--inet", f"--directory={self.root}", "--allow-writes"]
        return [*self.brz, *words]

    def service(
        self, name: str = "lpserve", plugin: str = PLUGIN, **settings: object
    ) -> Service:
        """A service of the checkout *plugin* with these ``lpserve.*`` settings."""
        return Service(self, name, plugin, settings)


class Daemon:
    """A ``brz`` command that logs where it listens.

    :ivar pid: its pid.
    :ivar environ: its environment, which may be changed before the start.
    """

    def __init__(self, stage: Stage, name: str, environ: dict[str, str]):
        self._stage = stage
        self._log_path = os.path.join(stage.path, name + ".log")
        self.environ = environ

    def start(self, *words: str) -> str:
        """Run ``brz`` with *words*; the address where it listens."""
        with open(self._log_path, "wb") as log:
            self._process = subprocess.Popen(
                [*self._stage.brz, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environ,
                cwd=self._stage.path,
                # Ctrl-C interrupts this process, which stops the daemon.
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
        except subprocess.TimeoutExpired:
            raise BenchmarkError("a server did not stop") from None
        finally:
            self.kill()

    def kill(self) -> None:
        """Kill it and its children, if it still runs."""
        if self._process.poll() is None:
            for pid in [*self.children(), self.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()

    def log_text(self) -> str:
        """Its log."""
        with open(self._log_path, encoding="utf-8", errors="replace") as log:
            return log.read()

    def children(self) -> list[int]:
        """The pids of its children: those of a service are its zygote and workers."""
        children = f"/proc/{self.pid}/task/{self.pid}/children"
        # Only kernels with CONFIG_PROC_CHILDREN have this file.
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
        """Have its Breezy load a plug-in; to be called before the start."""
        place = os.path.join(self._stage.path, name)
        os.makedirs(place, exist_ok=True)
        with open(os.path.join(place, "__init__.py"), "w") as file:
            file.write(text)
        self.environ["BRZ_PLUGINS_AT"] += f":{name}@{place}"

    def let_configuration_age(self) -> None:
        """Wait until workers trust the mtime of its breezy.conf, as they usually do.

        A worker reads a file again that was changed within the granularity of mtime.
        """
        from lpserve.zygote import reset  # imports Breezy

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
        """Its status (doc/protocol.txt)."""
        answer = conversation.ask(self.directory, ["status"], DEADLINE)
        found: dict[str, Any] = json.loads(answer[1])
        return found

    def settle(self) -> dict[str, Any]:
        """Wait until it serves nobody and its spare workers are ready; its status."""

        def settled() -> dict[str, Any] | None:
            status = self.status()
            workers = status["workers"]
            quiet = not (workers["busy"] or workers["waiting"] or workers["starting"])
            return status if quiet and workers["spare"] >= self.spares else None

        found: dict[str, Any] = wait_until(settled, "the service has come to rest")
        self._wait_idle()
        return found

    def _wait_idle(self) -> None:
        """Wait until its children sleep: spare workers are counted before they do."""

        def idle(pid: int) -> bool:
            fields = processes.read(pid, "stat").rpartition(b") ")[2]
            return fields[:1] in b"S"  # or it has ended

        time.sleep(_GET_READY)
        wait_until(lambda: all(map(idle, self.children())), "spare workers are ready")

    def wait_for_spares(self, busy: int = 0) -> None:
        """Wait until it has a zygote, its spare workers and *busy* other workers.

        Unlike `settle` this sends no request, which would take CPU time.
        """
        number = 1 + self.spares + busy
        wait_until(lambda: len(self.children()) == number, "spare workers only")
        self._wait_idle()


def children_of(pids: Iterable[int]) -> list[int]:
    """The pids of the children of *pids*."""
    parents = set(pids)
    return [each.pid for each in processes.processes() if each.parent in parents]


def check_hello(answer: bytes) -> None:
    """Check the answer to ``hello``.

    :raises BenchmarkError: if it is another one.
    """
    if answer != HELLO:
        raise BenchmarkError(f"the answer to hello is {answer!r}")
