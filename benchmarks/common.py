# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""What the benchmarks share: a service of their own, the other side, figures.

A benchmark compares lpserve with 'brz serve --inet' on the machine that it runs
on. Both sides are measured in turns in one run, so that whatever else the machine
does is done to both. Needs no more than the standard library and Breezy.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

#: The directory of the plug-in.
PLUGIN = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, PLUGIN)

from figures import filesystem, processor  # noqa: E402

from lpserve import conversation  # noqa: E402

#: Seconds until something that should happen is taken not to.
DEADLINE = 120.0
#: What a smart server answers to ``hello``.
HELLO = b"ok\x012\n"
USER = "alice"
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


# -- the two sides ------------------------------------------------------------


def find_brz() -> list[str]:
    """The words that run Breezy: the ``brz`` beside this Python, or on PATH."""
    beside = os.path.join(os.path.dirname(sys.executable), "brz")
    found = beside if os.access(beside, os.X_OK) else shutil.which("brz")
    return [found] if found else [sys.executable, "-m", "breezy"]


class Stage:
    """A temporary directory with a home and a root that is served.

    :ivar path: the directory.
    :ivar runtime: one for runtime directories, in memory if there is such a place:
        /run and $XDG_RUNTIME_DIR, where they belong, are.
    :ivar root: what is served.
    """

    def __init__(self) -> None:
        self.path = tempfile.mkdtemp(prefix=_PREFIX)
        places = (os.environ.get("XDG_RUNTIME_DIR"), "/dev/shm")
        usable = (each for each in places if each and os.access(each, os.W_OK))
        self.runtime = tempfile.mkdtemp(prefix=_PREFIX, dir=next(usable, self.path))
        self.root = os.path.join(self.path, "root")
        os.mkdir(self.root)
        self.brz = find_brz()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *exc: object) -> None:
        for path in (self.path, self.runtime):
            shutil.rmtree(path, ignore_errors=True)

    def environ(self, home: str, plugin: bool) -> dict[str, str]:
        """An environment that keeps the account's own settings out of this.

        :param plugin: whether Breezy finds lpserve, which today's has not.
        """
        home = os.path.join(self.path, home)
        os.makedirs(os.path.join(home, "breezy"), exist_ok=True)
        places = (os.path.dirname(sys.executable), "/usr/local/bin:/usr/bin:/bin")
        environ = {
            "HOME": home,
            "BRZ_HOME": home,
            "XDG_CACHE_HOME": home,
            "BRZ_PLUGIN_PATH": "-site:-user",
            "LANG": "C.UTF-8",
            "PATH": ":".join(places),
        }
        if plugin:
            environ["BRZ_PLUGINS_AT"] = f"lpserve@{PLUGIN}"
        return environ

    def inet(self) -> subprocess.Popen[bytes]:
        """Start ``brz serve --inet``, as sshd does for every connection today."""
        words = ["serve", "--inet", f"--directory={self.root}", "--allow-writes"]
        return _popen([*self.brz, *words], self.environ("today", plugin=False))

    def service(self, name: str = "lpserve", **settings: object) -> Service:
        """A service with these ``lpserve.*`` settings; a context manager."""
        return Service(self, name, settings)


def _popen(words: list[str], environ: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        words,
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environ,
        cwd=environ["HOME"],
    )


class Service:
    """A running service.

    :ivar directory: its runtime directory.
    :ivar pid, zygote: of its processes.
    """

    def __init__(self, stage: Stage, name: str, settings: dict[str, object]):
        self.directory = os.path.join(stage.runtime, name)
        self._log_path = os.path.join(stage.path, name + ".log")
        self._stage = stage
        self.environ = stage.environ(name, plugin=True)
        settings = {
            "runtime_dir": self.directory,
            "directory": stage.root,
            "allow_writes": True,
            **settings,
        }
        self.spares = int(str(settings.get("spare_workers", 2)))
        path = os.path.join(self.environ["HOME"], "breezy", "breezy.conf")
        with open(path, "w") as file:
            file.write("[DEFAULT]\n")
            for option, value in settings.items():
                file.write(f"lpserve.{option} = {value}\n")

    def __enter__(self) -> Service:
        with open(self._log_path, "wb") as log:
            self._process = subprocess.Popen(
                [*self._stage.brz, "lp-serve", "--fork-server"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environ,
                cwd=self._stage.path,
            )
        self.pid = self._process.pid
        try:
            wait_until(self._is_up, "the service is up")
            self.zygote = self.settle()["zygote"]
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        return self

    def _is_up(self) -> bool:
        if self._process.poll() is not None:
            raise BenchmarkError(f"the service has ended:\n{self.log_text()}")
        return "Listening on " in self.log_text()

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(conversation.NoService):
            conversation.ask(self.directory, ["shutdown", "now"], DEADLINE)
        try:
            self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            for pid in [self.pid, *self.children()]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()
            raise BenchmarkError("the service did not stop") from None

    def log_text(self) -> str:
        """What the service has logged."""
        with open(self._log_path, encoding="utf-8", errors="replace") as log:
            return log.read()

    def children(self) -> list[int]:
        """The pids of its children: the zygote and the workers."""
        return [
            pid
            for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
            if _parent(pid) == self.pid
        ]

    def settle(self) -> dict[str, Any]:
        """Wait until it has nothing to do and its spare workers; its status."""

        def settled() -> dict[str, Any] | None:
            answer = conversation.ask(self.directory, ["status"], DEADLINE)
            status: dict[str, Any] = json.loads(answer[1])
            workers = status["workers"]
            quiet = not (workers["busy"] or workers["waiting"] or workers["starting"])
            return status if quiet and workers["spare"] == self.spares else None

        found: dict[str, Any] = wait_until(settled, "the service has come to rest")
        # A spare worker is counted when it is there, not when it has got ready.
        time.sleep(0.02)
        return found

    def client(self) -> subprocess.Popen[bytes]:
        """Start the stand-alone client, which must not fall back."""
        program = os.path.join(PLUGIN, "bin", "lp-serve-client")
        return _popen([program, "--no-fallback", USER], self.environ)


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])
    return 0


class Direct:
    """A connection made by this process through the FIFOs.

    :param wait: open the FIFOs so that they block, as soon as the worker has too;
        otherwise they are for those who wait for what they have.
    :ivar times: of the request, the answer and the opened FIFOs, in seconds.
    :ivar ends: our descriptors of stdin, stdout and stderr.
    """

    def __init__(self, service: Service, user: str = USER, wait: bool = False):
        self.times = [time.perf_counter()]
        self._conversation = conversation.Conversation(service.directory)
        self.ends: list[int] = []
        try:
            deadline = time.monotonic() + DEADLINE
            self._conversation.send(["spawn", user], deadline)
            answer = self._conversation.wait_answer(deadline)
            self.times.append(time.perf_counter())
            if answer[0] != "ok":
                raise BenchmarkError(f"the service says {' '.join(answer)}")
            self.ends.append(os.open(answer[2], os.O_WRONLY))
            for path in answer[3:]:
                flags = 0 if wait else os.O_NONBLOCK
                self.ends.append(os.open(path, os.O_RDONLY | flags))
            self.times.append(time.perf_counter())
        except BaseException:
            self.close()
            raise

    def hello(self) -> float:
        """Say hello; the time when the first byte of the right answer was there."""
        os.write(self.ends[0], b"hello\n")
        # A read before the worker has opened its end would see an end of file.
        poller = select.poll()
        poller.register(self.ends[1], select.POLLIN)
        if not poller.poll(DEADLINE * 1000):
            raise BenchmarkError("no answer to hello")
        came = time.perf_counter()
        check_hello(os.read(self.ends[1], 64))
        return came

    def close(self) -> None:
        """Close our ends, and do not wait for the worker."""
        while self.ends:
            os.close(self.ends.pop())

    def finish(self) -> None:
        """Close our ends and wait until the worker has ended well."""
        self.close()
        try:
            answer = self._conversation.wait_answer(time.monotonic() + DEADLINE)
        finally:
            self._conversation.close()
        if answer != ["exit", "0"]:
            raise BenchmarkError(f"a worker ended with {' '.join(answer)}")


def check_hello(answer: bytes) -> None:
    """Only a right answer counts."""
    if answer != HELLO:
        raise BenchmarkError(f"the answer to hello is {answer!r}")


def finish(process: subprocess.Popen[bytes]) -> float:
    """Close a server's or client's pipes and wait; the CPU seconds it took."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.close()
    process.stdout.read()
    process.stdout.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise BenchmarkError(f"{process.args!r} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


# -- the program --------------------------------------------------------------


def machine(stage: Stage) -> dict[str, Any]:
    """What the figures depend on."""
    environ = stage.environ("version", plugin=False)
    words = [*stage.brz, "version", "--short"]
    shown = subprocess.check_output(words, env=environ, cwd=stage.path, text=True)
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": processor(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "breezy": shown.strip(),
        "load": round(os.getloadavg()[0], 2),
        "runtime_filesystem": filesystem(stage.runtime),
    }


def arguments(text: str, repeat: int, what: str) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE")
    parser.add_argument(
        "--repeat",
        type=_positive,
        default=repeat,
        metavar="N",
        help=f"{what} (default: {repeat})",
    )
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def run(
    name: str,
    parser: argparse.ArgumentParser,
    measure: Callable[[Stage, argparse.Namespace], dict[str, Any]],
    words: Sequence[str] | None = None,
) -> int:
    """Measure, print, write; the exit status.

    *measure* returns a dict to be written as JSON, of which ``text`` is printed
    instead, ``targets`` is a list of `target`, and ``failures`` a list of lines,
    without which the status is 0. A target that is missed says something of the
    machine too, so it does not count as a failure.
    """
    chosen = parser.parse_args(words)
    # So that what was started is stopped.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with Stage() as stage:
        found = machine(stage)
        print(
            f"{name}: {found['cores']} cores ({found['processor']}, "
            f"load {found['load']}), Linux {found['kernel']}, "
            f"Python {found['python']}, Breezy {found['breezy']}, "
            f"runtime directory on {found['runtime_filesystem']}\n",
            flush=True,
        )
        try:
            result = measure(stage, chosen)
        except (BenchmarkError, conversation.NoService) as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
    print(result.pop("text"), end="")
    for each in result.get("targets", ()):
        verdict = "reached" if each["reached"] else "MISSED"
        print(
            f"{each['name']}: {each['ratio']:.1f} times "
            f"(wanted: {each['wanted']:.0f}) {verdict}"
        )
    for line in result.setdefault("failures", []):
        print(f"FAILED: {line}")
    if chosen.json:
        with open(chosen.json, "w") as file:
            json.dump({"benchmark": name, "machine": found, **result}, file, indent=1)
            file.write("\n")
    return 1 if result["failures"] else 0
