# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""Descriptors that somebody sent, to be a worker's standard ones."""

from __future__ import annotations

import array
import fcntl
import os
import select
import socket
import stat
from collections.abc import Collection

from .wire import BAD_REQUEST, FAILED, RequestError

_NAMES = ("stdin", "stdout", "stderr")
#: One more than there may be; the kernel closes what there is no room for.
MAX_ATTACHED = len(_NAMES) + 1
_int = array.array("i").itemsize


class Attached:
    """The descriptors that came with one line at the socket."""

    def __init__(self) -> None:
        self.descriptors: list[int] = []
        self.surplus = self.truncated = False

    def __bool__(self) -> bool:
        return bool(self.descriptors) or self.surplus or self.truncated

    def take(self, content: bytes) -> None:
        """Add those of an SCM_RIGHTS message."""
        whole = len(content) - len(content) % _int
        self.descriptors.extend(array.array("i", content[:whole]))
        if len(self.descriptors) > len(_NAMES):
            self.surplus = True
            self.close()

    def close(self) -> None:
        """Close them."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = []

    def be_stdio(self) -> tuple[int, ...]:
        """Hand them over as a worker's standard input, output and error.

        :raises RequestError: if they cannot be.
        """
        number = len(self.descriptors)
        if self.truncated and not self.surplus:
            raise RequestError(FAILED, "the service has no descriptors left")
        if self.surplus or number != len(_NAMES):
            raise RequestError(
                BAD_REQUEST,
                "spawn takes three descriptors on the socket (stdin, stdout, stderr), "
                f"not {'more' if self.surplus else number}",
            )
        fault = stdio_fault(self.descriptors)
        if fault is not None:
            raise RequestError(BAD_REQUEST, fault)
        stdio, self.descriptors = tuple(self.descriptors), []
        return stdio


def stdio_fault(descriptors: Collection[int]) -> str | None:
    """Why *descriptors* cannot be standard input, output and error; or None."""
    poller = select.poll()
    for number, name in zip(descriptors, _NAMES, strict=True):
        flags = fcntl.fcntl(number, fcntl.F_GETFL)
        useful = (os.O_RDONLY if name == "stdin" else os.O_WRONLY, os.O_RDWR)
        if flags & os.O_PATH or flags & os.O_ACCMODE not in useful:
            wanted = "reading" if name == "stdin" else "writing"
            return f"the descriptor of {name} is not open for {wanted}"
        poller.register(number, 0)  # POLLHUP is always told
    gone = {number for number, _ in poller.poll(0)}
    for number in descriptors:
        # A pipe may be closed at the other end and have something to read.
        if stat.S_ISSOCK(os.fstat(number).st_mode) and (
            number in gone or not _is_connected(number)
        ):
            return "a descriptor is a socket that is not connected"
    return None


def _is_connected(number: int) -> bool:
    link = socket.socket(fileno=number)  # of whatever family
    try:
        link.getpeername()
    except OSError:
        return False
    finally:
        link.detach()
    return True
