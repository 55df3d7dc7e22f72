# SPDX-License-Identifier: GPL-2.0-or-later

"""The main program of a worker: waits for a connection, serves it and exits.

A spare worker is forked before there is a connection for it. It waits for the
``serve`` message, with USER and the descriptors.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import gc
import os
import signal
import socket
import sys
import time
from typing import Any

from breezy import trace
from breezy.bzr.smart.protocol import MESSAGE_VERSION_THREE

from .. import channel, scoreboard
from ..accessfile import AccessFile, find_pretences
from ..errors import ConfigurationError
from ..location import LPSERVE_USER
from ..paths import connection_fifos, remove_connection
from ..sandbox import sandbox
from ..serving import intake, medium, memorylimit, permits, smartserver
from ..serving.patience import write_aside
from ..streams.asking import Inbox
from ..streams.wrapping import keeping
from ..system import set_title
from ..warm.memory import cache
from ..wire import encode_answer
from . import reset

#: Exit status of a worker whose FIFOs no client opened in time (EX_TEMPFAIL).
NOBODY_CAME = 75


#: What a user reads whose connection an administrator ends.
ENDED_BY_ADMINISTRATOR = b"lp-serve: the administrator has ended this connection\n"

#: Seconds between two checks by a zygote whether breezy.conf has changed. Each worker
#: checks, too.
LOOK_AGAIN = 1.0
#: Connections, and uses of access rules, before the first fork. The interpreter counts
#: the calls of a function, in its code, until it specializes it after a few. A worker
#: copies the page of each function that still counts.
WARM_UPS = 20
#: Rules that hide nothing of which the service is told.
MOST_PRETENCES = 20


# "hello" in protocol version three: no headers, the arguments, the end.
_GREETING = MESSAGE_VERSION_THREE + b"\0\0\0\x02de" + b"s\0\0\0\x09l5:helloe" + b"e"


class _TooLate(Exception):
    """The client did not open a FIFO in time."""


def main(
    end: socket.socket,
    start: dict[str, Any],
    ready: ZygoteState,
    modules: int,
    spare: bool,
) -> int:
    """Run a worker; its exit status.

    :param end: its end of the channel to the service.
    :param start: the ``start`` message of the service.
    :param ready: what the zygote has prepared.
    :param modules: how many modules the zygote had loaded when it was ready.
    :param spare: whether no connection is waiting for it.
    """
    context = reset.Context(start, settings=ready.settings, stamp=ready.stamp)
    for step in reset.AT_FORK:
        step(context)
    memorylimit.limit_connection(ready.settings["worker_memory"])
    ready.sandbox.prepare()
    if spare:
        practise(context, ready)
        if ready.unchecked:
            _check_access(end, ready)
    for step in reset.AFTER_PRACTICE:
        step(context)
    message, descriptors = channel.receive(end)
    while message is not None and message["kind"] != "serve":
        if message["kind"] == "warm":
            cache.take(message, descriptors)
        else:  # "ping"
            with contextlib.suppress(BrokenPipeError):  # retired meanwhile
                channel.send(end, "pong")
        message, descriptors = channel.receive(end)
    if message is None:
        return 0  # retired as a spare
    context.message = message
    scoreboard.current.begin()
    keeping.inbox = Inbox(end)
    medium.when_hung_up.append(functools.partial(_obey, keeping.inbox))
    cache.connect(end, ready.settings["warm_report_interval"])
    at_fifos = "path" in message
    answers = _FifoAnswers(message) if at_fifos else _LinkAnswers(descriptors)
    connected = gone = False
    try:
        try:
            answers.connect(descriptors, ready.settings["connect_timeout"])
            connected = True
        finally:
            answers.clean_up()
        status = _serve(context, ready)
        gone = smartserver.client_gone
        with contextlib.suppress(OSError):
            if len(sys.modules) > modules:
                channel.send(end, "imported", names=list(sys.modules)[modules:])
    except BaseException as error:
        gone = isinstance(error, (_TooLate, *smartserver.GONE))
        if connected:
            status = smartserver.report_error(error)
        elif isinstance(error, (_TooLate, OSError)):
            status = NOBODY_CAME
        else:
            raise
    # The connection is over: if we fail now, the service reports our end.
    with contextlib.suppress(BaseException):
        if gone:
            channel.send(end, "gone")
        _leave(end, answers, status)
    # Last, because no client waits for it.
    with contextlib.suppress(BaseException):
        cache.report()
    return status


class ZygoteState:
    """What a zygote has prepared for its workers.

    :ivar settings: the result of `settings.Settings.for_worker`.
    :ivar server: see `smartserver.prepare`.
    :ivar stamp: see `reset.Context`.
    :ivar sandbox: of the zygote and its workers.
    :ivar access: the access rules, or None.
    :ivar unchecked: the rules are new: the first spare worker compares them with what
        is served.
    """

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}
        self.server: smartserver.ConnectionServer | None = None
        self.stamp: Any = None
        self.sandbox = sandbox.Sandbox()
        self.access: AccessFile | None = None
        self.unchecked = False
        self._next_look = 0.0

    def prepare(self, settings: dict[str, Any]) -> None:
        """Update it for *settings*; nothing of it depends on a user."""
        try:
            if settings != self.settings:
                self.settings, self.server = settings, None
                self.server = smartserver.prepare(
                    settings["directory"], settings["allow_writes"]
                )
            if time.monotonic() >= self._next_look:
                self._next_look = time.monotonic() + LOOK_AGAIN
                self.stamp = reset.read_configuration(self.stamp)
        except Exception:
            self.stamp = None  # the worker fails likewise, and tells its client

    def take_access(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """Have the rules that the service has found, for all workers to come."""
        if not descriptors:
            return  # there was no room for it: each worker reads the file
        with open(descriptors[0], "rb") as file:
            content = file.read()
        if self.access is not None:
            with contextlib.suppress(ConfigurationError):  # of another version
                self.access.take(message["state"], content)
                for _ in range(WARM_UPS):
                    # Not below the root: its server might not answer.
                    permits.practise(self.access.current(), os.devnull)
            self.unchecked = message["unchecked"]
        gc.freeze()  # as all that workers share

    def client_timeout(self) -> float:
        """The seconds without a request after which a client is disconnected."""
        chosen: float | None = self.settings["client_timeout"]
        return reset.client_timeout if chosen is None else chosen


def warm_up(ready: ZygoteState) -> None:
    """Serve one "hello" from a pipe, to run the code that a connection runs."""
    intake.writing_requests()  # fills its cache
    ends = (*os.pipe(), *os.pipe())
    try:
        os.write(ends[1], _GREETING)
        os.close(ends[1])
        server = ready.server or smartserver.ConnectionServer("/", False)
        server.serve(ends[0], ends[3], 1.0, 1.0)
    finally:
        for number in ends[0], ends[2], ends[3]:
            os.close(number)


def _check_access(end: socket.socket, ready: ZygoteState) -> None:
    """Tell of rules that do not hide what they seem to.

    For a spare worker: it may wait for what is served, and nobody waits for it.
    """
    with contextlib.suppress(OSError):
        if ready.access is not None and (rules := ready.access.rules) is not None:
            lines = find_pretences(rules, ready.access.directory)
            channel.send(end, "pretences", lines=lines[:MOST_PRETENCES])


def practise(context: reset.Context, ready: ZygoteState) -> None:
    """Serve a connection without a client in a spare worker.

    A page that a fork shares is copied at the first write to it, and reference counts
    are writes. After this, most pages that a connection writes to are copied
    (doc/design.txt). The state that it leaves is reset at the connection.
    """
    email, log = os.environ.get("BRZ_EMAIL"), trace._trace_file
    trace._trace_file = None  # do not open the log
    try:
        context.message = {"user": "spare", "env": {}}
        for step in reset.AT_CONNECTION:
            step(context)
        warm_up(ready)
        if ready.access is not None and ready.server is not None:
            permits.practise(ready.access.current(), ready.server.root)
    except Exception:
        context.stamp = None  # the connection fails likewise, and tells its client
    finally:
        trace._trace_file = log
        os.environ.pop(LPSERVE_USER, None)
        if email is None:
            os.environ.pop("BRZ_EMAIL", None)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        set_title("lp-spare")


class _FifoAnswers:
    """A connection through FIFOs: the service has sent ``ok``, we send our status."""

    def __init__(self, message: dict[str, Any]):
        self._path = message["path"]
        self._reply = message["reply"]

    def connect(self, descriptors: list[int], timeout: float) -> None:
        """Open the FIFOs as our stdio, in the order in which the client opens them.

        :raises _TooLate: if the client has not opened them after *timeout* seconds.
        """

        def too_late(number: int, frame: Any) -> None:
            raise _TooLate

        stdin, self._held = descriptors
        signal.signal(signal.SIGALRM, too_late)
        # 0 would disable the timer.
        signal.setitimer(signal.ITIMER_REAL, timeout or 0.001)
        try:
            _become(stdin, 0)
            for number, path in enumerate(connection_fifos(self._path)[1:], 1):
                _become(os.open(path, os.O_WRONLY), number)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def clean_up(self) -> None:
        """Remove the FIFOs and release their directory."""
        remove_connection(self._path)
        os.close(self._held)

    def open(self) -> int:
        """Open the reply FIFO, for the last answer; its descriptor."""
        return os.open(self._reply, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW)


class _LinkAnswers:
    """A connection through the socket: we send all answers."""

    def __init__(self, descriptors: list[int]):
        if len(descriptors) != 4:
            raise OSError(errno.EMFILE, "there is no room for the descriptors")
        self._link = descriptors.pop(0)

    def connect(self, descriptors: list[int], timeout: float) -> None:
        """Send ``ok`` and make the descriptors our stdio.

        :raises OSError: if the client has gone.
        """
        os.write(self._link, encode_answer("ok", os.getpid()))
        for number, descriptor in enumerate(descriptors):
            _become(descriptor, number)
            if not os.get_blocking(number):
                os.set_blocking(number, True)

    def clean_up(self) -> None:
        """Do nothing."""

    def open(self) -> int:
        """The descriptor for the last answer."""
        return self._link


def _become(descriptor: int, number: int) -> None:
    os.dup2(descriptor, number)
    os.close(descriptor)


def _obey(inbox: Inbox) -> None:
    """SIGHUP has come: an administrator may have told the service to end us.

    The user is told at once: what comes next may be SIGTERM, and is here if it was to
    be at once.
    """
    while (message := inbox.find("end")) is not None:
        with contextlib.suppress(OSError):
            write_aside(ENDED_BY_ADMINISTRATOR, 0)
        if message["now"]:
            os.kill(os.getpid(), signal.SIGTERM)


def _serve(context: reset.Context, ready: ZygoteState) -> int:
    for step in reset.AT_CONNECTION:
        step(context)
    settings = ready.settings
    ready.sandbox.restrict_to_user(context.message["user"], settings["allow_writes"])
    return smartserver.serve_and_report(
        context.message["user"],
        0,
        1,
        directory=settings["directory"],
        allow_writes=settings["allow_writes"],
        client_timeout=ready.client_timeout(),
        request_timeout=settings["request_timeout"],
        prepared=ready.server,
        last=True,
        access=ready.access,
    )


def _leave(
    end: socket.socket, answers: _FifoAnswers | _LinkAnswers, status: int
) -> None:
    """Send our exit status to the client, which then need not wait for the service.

    ``left`` tells the service not to send it. If we are killed before we exit, the
    service sends that instead; so it does after ``stayed``.
    """
    for number in range(3):
        with contextlib.suppress(OSError):
            os.close(number)
    opened = answers.open()
    with contextlib.suppress(OSError):
        channel.send(end, "left")
    try:
        os.write(opened, encode_answer("exit", status))
    except BaseException:
        channel.send(end, "stayed")
        raise
