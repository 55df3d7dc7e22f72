# SPDX-License-Identifier: GPL-2.0-or-later

"""The several processes of lp-serve-ssh: starts, feeds and replaces them.

A channel connects each with the front. To a process: ``start``, ``connection`` (with
its socket), ``reload``, ``finish``, ``stop``, ``cut``, ``ping``. From it: ``ready``,
``pong``, ``news``. News are ``logged-in`` and ``lost``, with the number of a
connection, and ``sessions``, with how many there are.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from typing import Any, Protocol

from .. import channel
from ..conch.fifos import DescriptorWatcher, close_soon
from ..settings import Settings
from .arrivals import Arrival
from .posting import Post
from .server import AFTER_CUT, Owner

log = logging.getLogger("lpserve")

#: Seconds between two pings; how many of them may stay unanswered until a process is
#: killed, and from how many on it gets no connection if another can have it. Pings are
#: counted, and not time, because the front itself may have been stopped.
_PING, _MOST_UNANSWERED, _SLOW = 5.0, 12, 2
#: How many pings a process may take to start.
_MOST_STARTING = 24
#: Seconds until a process is replaced that has ended: the first time at once, then
#: doubled up to the longest, until one has lived that long.
_PAUSE, _LONGEST_PAUSE = 0.1, 30.0
#: What is systemd's word to the front alone.
_OF_THE_FRONT = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")


class FrontOwner(Owner, Protocol):
    """`Owner`, which has to pause."""

    def unready(self) -> None:
        """No process can serve a connection now."""

    def failed(self, why: str) -> None:
        """No process can be started."""


class Processes:
    """Serves connections in several processes; the interface of `server.Server`.

    :param count: how many there are.
    :param argv: the command of a process; the number of its descriptor is appended.
    :param start: the fields of ``start``; see `process`.
    :ivar owner: is told what becomes of connections; to be set before `start`.
    """

    owner: FrontOwner

    def __init__(
        self, reactor: Any, count: int, argv: list[str], start: dict[str, Any]
    ):
        self.reactor = reactor
        self._argv, self._start = argv, start
        self._count = count
        self._processes: list[Process] = []
        self._timers: list[Any] = []
        self._stopping = self._finishing = self._begun = self._failed = False
        self._failures = 0

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return sum(len(each.numbers) for each in self._processes)

    @property
    def sessions(self) -> int:
        """How many sessions there are."""
        return sum(each.sessions for each in self._processes)

    def start(self) -> None:
        """Start the processes."""
        for _ in range(self._count):
            if not self._launch():
                return
        self._timers.append(self.reactor.callLater(_PING, self._ping))

    def _launch(self) -> bool:
        if self._finishing:
            return False
        try:
            self._processes.append(Process(self, self._argv, self._start))
        except OSError as error:
            self._not_started(error.strerror or str(error))
            return False
        return True

    def configure(self, settings: Settings) -> None:
        """Have the processes read their settings again."""
        for each in self._processes:
            each.post.send("reload")

    def serve(self, made: socket.socket, arrival: Arrival, number: int) -> None:
        """Pass a connection on to the process that has the fewest; see `Server`."""
        ready = [each for each in self._processes if each.ready]
        ready.sort(key=Process.load)
        with made:
            if not any(each.serve(made, arrival, number) for each in ready):
                log.warning("no process can take the connection from %s", arrival.peer)
                self.owner.lost(number, "")

    def _ping(self) -> None:
        self._timers[:] = [each for each in self._timers if each.active()]
        self._timers.append(self.reactor.callLater(_PING, self._ping))
        for each in self._processes:
            each.ping()

    # -- what processes tell ---------------------------------------------------

    def process_ready(self) -> None:
        """One more process is ready."""
        self._begun = self._begun or all(each.ready for each in self._processes)
        if self._begun:
            self.owner.ready()

    def process_ended(self, process: Process, how: str) -> None:
        """A process has ended: its connections are lost."""
        self._processes.remove(process)
        lost = len(process.numbers)
        for number in process.numbers:
            self.owner.lost(number, "")
        if self._stopping or (self._finishing and not lost):
            if how not in ("status 0", "signal 9"):
                log.warning("SSH process %d has ended: %s", process.pid, how)
            self._end_if_over()
            return
        if not process.ready:
            self._not_started(how)
            return
        log.warning(
            "SSH process %d has ended (%s), and with it its connections: %d",
            *(process.pid, how, lost),
        )
        if self._finishing:
            self._end_if_over()
            return
        if process.age >= _LONGEST_PAUSE:
            self._failures = 0
        self._replace()

    def _not_started(self, why: str) -> None:
        if not self._begun:
            if not self._failed:  # the others are killed, which explains nothing
                self._failed = True
                self.kill()
                self.owner.failed(f"cannot start a process of lp-serve-ssh: {why}")
            return
        log.warning("cannot start a process of lp-serve-ssh: %s", why)
        self._replace()

    def _replace(self) -> None:
        if not any(each.ready for each in self._processes):
            self.owner.unready()
        pause = min(_LONGEST_PAUSE, _PAUSE * (2**self._failures - 1))
        self._failures = min(self._failures + 1, 16)
        self._timers.append(self.reactor.callLater(pause, self._launch))

    # -- the end ---------------------------------------------------------------

    def finish(self) -> None:
        """Let the connections go on; when none is left, the owner is told."""
        self._finishing = True
        for each in list(self._processes):
            each.finish()
        self._end_if_over()

    def stop(self) -> None:
        """Let the sessions finish; then the owner is told that it is over."""
        self._stopping = True
        for timer in self._timers:
            if timer.active():
                timer.cancel()
        for each in list(self._processes):
            each.stop()
        self._end_if_over()

    def cut(self, why: str) -> None:
        """Abort all connections; the owner is told when it is over."""
        for each in self._processes:
            each.post.send("cut", why=why)
        self.reactor.callLater(AFTER_CUT + 1, self._cut_short)

    def _cut_short(self) -> None:
        self.kill()
        self.owner.over()

    def kill(self) -> None:
        """Kill all processes."""
        for each in self._processes:
            each.kill()

    def _end_if_over(self) -> None:
        if not self._processes:
            self.owner.over()


class Process:
    """One of the processes.

    :ivar ready: whether it serves connections.
    :ivar numbers: those of its connections.
    :ivar sessions: how many it has.
    :ivar silent: how many pings it has not answered.
    :raises OSError: if it cannot be started.
    """

    def __init__(self, owner: Processes, argv: list[str], start: dict[str, Any]):
        self.ready = False
        self.numbers: set[int] = set()
        self.sessions = self.silent = 0
        self._owner = owner
        self._reactor = owner.reactor
        self._began = self._reactor.seconds()
        ours, theirs = channel.pair()
        with theirs:
            try:
                self.pid = _launch(argv, theirs)
                self._pidfd = os.pidfd_open(self.pid)
            except OSError:
                ours.close()
                raise
        self.post = Post(self._reactor, ours, self._handle)
        self._watch = DescriptorWatcher(self._reactor, self._pidfd, self._ended)
        self.post.send("start", **start)

    def load(self) -> tuple[bool, int]:
        """Which of two is to get a connection: that with less."""
        return self.silent >= _SLOW, len(self.numbers)

    @property
    def age(self) -> float:
        """For how many seconds it has run."""
        return float(self._reactor.seconds() - self._began)

    def serve(self, made: socket.socket, arrival: Arrival, number: int) -> bool:
        """Pass a connection on; False if it has no room for it now."""
        fields = {"number": number, "arrival": arrival.encode(), "family": made.family}
        if not self.post.send_now("connection", (made.fileno(),), **fields):
            return False
        self.numbers.add(number)
        return True

    def ping(self) -> None:
        """Send a ping; kill the process if it has not answered for long."""
        if not self.silent:
            self.post.send("ping")
        self.silent += 1
        most = _MOST_UNANSWERED if self.ready else _MOST_STARTING
        if self.silent > most:
            log.warning("SSH process %d does not answer: killed", self.pid)
            self.kill()

    def finish(self) -> None:
        """Have it end with its last connection."""
        self._end_by("finish")

    def stop(self) -> None:
        """Have it end with its last session."""
        self._end_by("stop")

    def _end_by(self, kind: str) -> None:
        if self.ready:
            self.post.send(kind)
        else:
            self.kill()

    def kill(self) -> None:
        """Kill it."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _handle(self, message: dict[str, Any] | None, taken: list[int]) -> None:
        if message is None:
            self.kill()  # it has closed its end; `_ended` follows
            return
        kind = message["kind"]
        if kind == "ready":
            self.ready = True
            self._owner.process_ready()
        elif kind == "news":
            for news in message["news"]:
                self._note(*news)
        elif kind == "pong":
            self.silent = 0

    def _note(self, kind: str, number: int, fault: str = "") -> None:
        owner = self._owner.owner
        if kind == "logged-in":
            owner.logged_in(number)
        elif kind == "lost":
            self.numbers.discard(number)
            owner.lost(number, fault)
        elif kind == "sessions":
            self.sessions = number
            owner.sessions_changed(self._owner.sessions)

    def _ended(self) -> None:
        self.post.read_all()  # its last words
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            return
        self._watch.stop()
        close_soon(self._reactor, self._pidfd)
        self.post.close()
        code = os.waitstatus_to_exitcode(status)
        how = f"status {code}" if code >= 0 else f"signal {-code}"
        self._owner.process_ended(self, how)


def _launch(argv: list[str], theirs: socket.socket) -> int:
    """Start a process with its end of the channel; its pid.

    :raises OSError: if it cannot be started.
    """
    os.set_inheritable(theirs.fileno(), True)
    environ = {k: v for k, v in os.environ.items() if k not in _OF_THE_FRONT}
    stopping = [signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD]
    argv = [*argv, str(theirs.fileno())]
    return os.posix_spawn(argv[0], argv, environ, setsigmask=[], setsigdef=stopping)
