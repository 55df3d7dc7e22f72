# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""A worker: forked by a zygote, serves one connection, exits.

It may be forked long before it is needed: all that is missing then is the
``serve`` message, with USER and the descriptors.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from typing import Any

from breezy import rules, trace

from . import channel, reset, serving
from .paths import connection_fifos, remove_connection
from .wire import encode_answer

#: Exit status of a worker whose FIFOs nobody opened in time (EX_TEMPFAIL).
NOBODY_CAME = 75


class _TooLate(Exception):
    """The client did not open a FIFO in time."""


def main(end: socket.socket, start: dict[str, Any], modules: int) -> int:
    """The life of a worker; its exit status.

    :param end: its end of the channel to the service.
    :param start: the ``start`` message of the service.
    :param modules: how many modules the zygote had loaded when it was ready.
    """
    context = reset.Context(start, end.fileno(), {})
    for step in reset.AT_FORK:
        step(context)
    message, descriptors = channel.receive(end)
    if message is None:
        return 0  # retired as a spare
    context.message = message
    stdin, held = descriptors
    connected = False
    try:
        try:
            _connect(stdin, message)
            connected = True
        finally:
            remove_connection(message["path"])
            os.close(held)
        status = _serve(context)
        with contextlib.suppress(OSError):
            if len(sys.modules) > modules:
                channel.send(end, "imported", names=list(sys.modules)[modules:])
    except BaseException as error:
        if connected:
            status = _report_error(error, context)
        elif isinstance(error, (_TooLate, OSError)):
            status = NOBODY_CAME
        else:
            raise
    # The connection is over: what goes wrong now is the service's to tell.
    with contextlib.suppress(BaseException):
        _leave(end, message["reply"], status)
    return status


def warm_up() -> None:
    """Serve a greeting to nobody, while nobody waits.

    What a fork shares is copied when it is first written to, reference counts
    included: a spare worker that has served once has most of that behind it,
    which halves what the client sees (doc/design.txt). Before the resets, so
    that they undo what it leaves.
    """
    with contextlib.suppress(Exception):
        ends = (*os.pipe(), *os.pipe())
        try:
            os.write(ends[1], b"hello\n")
            os.close(ends[1])
            serving.serve("nobody", ends[0], ends[3], "/", False, 1.0)
            reset.practise()
        finally:
            for number in ends[0], ends[2], ends[3]:
                os.close(number)
        rules.reset_rules()


def _report_error(error: BaseException, context: reset.Context) -> int:
    """Tell the client, and the log, which may not have been reset yet."""
    if trace._trace_file is None:
        with contextlib.suppress(Exception):
            reset.reset_log(context)
    return serving.report_error(error)


def _connect(stdin: int, message: dict[str, Any]) -> None:
    """Make the FIFOs our stdio, in the order in which the client opens them."""

    def too_late(number: int, frame: Any) -> None:
        raise _TooLate

    signal.signal(signal.SIGALRM, too_late)
    # 0 would mean for ever.
    signal.setitimer(signal.ITIMER_REAL, message["connect_timeout"] or 0.001)
    try:
        os.dup2(stdin, 0)
        os.close(stdin)
        for number, path in enumerate(connection_fifos(message["path"])[1:], 1):
            opened = os.open(path, os.O_WRONLY)
            os.dup2(opened, number)
            os.close(opened)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _serve(context: reset.Context) -> int:
    for step in reset.AT_CONNECTION:
        step(context)
    message = context.message
    return serving.serve_and_report(
        message["user"],
        0,
        1,
        directory=message["directory"],
        allow_writes=message["allow_writes"],
        client_timeout=message["client_timeout"],
    )


def _leave(end: socket.socket, reply: str, status: int) -> None:
    """Say how we end: the service may be killed before it could.

    If we are killed in between, the service says so, and is right. So it does
    where we cannot.
    """
    for number in range(3):
        with contextlib.suppress(OSError):
            os.close(number)
    opened = os.open(reply, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    with contextlib.suppress(OSError):
        channel.send(end, "left")
    try:
        os.write(opened, encode_answer("exit", status))
    except BaseException:
        channel.send(end, "stayed")
        raise
