# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""The doors: ways in for requests, and ways back for their answers."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable

from .loop import Loop, Timer
from .paths import RuntimeDirectory
from .wire import Request, RequestError, RequestReader

#: Seconds that a reply FIFO may take to find a reader: a shell that writes the
#: request before it starts ``cat`` is served too.
REPLY_GRACE = 2.0
#: How many requests may wait for that at once; more are dropped.
MOST_WAIT = 256

Handler = Callable[["Request | RequestError", "FifoReply | NoReply"], None]


class NoReply:
    """Where answers go that nobody asked for."""

    path: str | None = None

    def send(self, line: bytes) -> bool:
        """Drop *line*."""
        return True

    def close(self) -> None:
        """Nothing to close."""


class FifoReply:
    """A reply FIFO with a reader; made by `ControlFifo`."""

    def __init__(self, loop: Loop, path: str, descriptor: int):
        self.path: str | None = path
        self._loop = loop
        self._descriptor = descriptor
        self._unsent = b""
        self._watching = False
        self._closing = False

    def send(self, line: bytes) -> bool:
        """Write *line* without waiting; whether there is still a reader."""
        self._unsent += line
        if self._descriptor >= 0 and not self._watching:
            self._write()
        return self._descriptor >= 0

    def close(self) -> None:
        """No more answers; what could not be written yet is written first."""
        self._closing = True
        if not self._watching:
            self._release()

    def _write(self) -> None:
        try:
            while self._unsent:
                self._unsent = self._unsent[os.write(self._descriptor, self._unsent) :]
        except BlockingIOError:
            if not self._watching:
                self._watching = True
                self._loop.watch_writable(self._descriptor, self._write)
            return
        except OSError:  # the reader has gone
            self._release()
            return
        if self._watching:
            self._watching = False
            self._loop.forget(self._descriptor)
        if self._closing:
            self._release()

    def _release(self) -> None:
        if self._descriptor >= 0:
            if self._watching:
                self._watching = False
                self._loop.forget(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1


class ControlFifo:
    """The control FIFO.

    :param handle: called with every request, or with why it is none, and the
        way back for its answer.
    :param log: called with a line about what was dropped.
    """

    name = "control"

    def __init__(
        self,
        loop: Loop,
        directory: RuntimeDirectory,
        handle: Handler,
        log: Callable[[str], None],
    ):
        self._loop = loop
        self._directory = directory
        self._handle = handle
        self._log = log
        self._reader = RequestReader()
        self._expiry: Timer | None = None
        self._descriptor = -1
        self._identity = (0, 0)
        self._looking = 0

    def open(self) -> None:
        """Make the FIFO and watch it.

        :raises OSError: if it cannot be made.
        """
        temporary = os.path.join(self._directory.path, ".new-control")
        os.mkfifo(temporary, 0o600)
        # For both, so that it never reports an end of file: writers come and go.
        self._descriptor = os.open(temporary, os.O_RDWR | os.O_NONBLOCK)
        found = os.fstat(self._descriptor)
        self._identity = (found.st_dev, found.st_ino)
        os.rename(temporary, self._directory.control)
        self._loop.watch(self._descriptor, self._read)

    @property
    def in_place(self) -> bool:
        """Whether the path still names this FIFO."""
        try:
            found = os.stat(self._directory.control)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._identity

    def close(self) -> None:
        """Answer what has been written, then remove the FIFO if it is ours."""
        if self._descriptor < 0:
            return
        if self.in_place:
            os.unlink(self._directory.control)
        self._read()
        self._loop.forget(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1

    def _read(self) -> None:
        try:
            # All that a pipe holds: no request is cut in two by us.
            data = os.read(self._descriptor, 1 << 16)
        except BlockingIOError:
            return
        for each in self._reader.feed(data, time.monotonic()):
            self._arrived(each)
        if self._reader.waiting and self._expiry is None:
            self._expiry = self._loop.call_later(RequestReader.HOLD, self._expire)

    def _expire(self) -> None:
        self._expiry = None
        error = self._reader.expire(time.monotonic())
        if error is not None:
            self._arrived(error)
        elif self._reader.waiting:
            self._expiry = self._loop.call_later(RequestReader.HOLD / 4, self._expire)

    def _arrived(self, request: Request | RequestError) -> None:
        if request.reply is None:
            self._handle(request, NoReply())
        else:
            self._find_reader(request, request.reply, 0.002, 0.0)

    def _find_reader(
        self, request: Request | RequestError, name: str, pause: float, waited: float
    ) -> None:
        path = os.path.join(self._directory.replies, name)
        reply = self._open_reply(path, name)
        if isinstance(reply, FifoReply):
            self._handle(request, reply)
        elif (
            reply == errno.ENXIO and waited < REPLY_GRACE and self._looking < MOST_WAIT
        ):
            self._looking += 1

            def again() -> None:
                self._looking -= 1
                self._find_reader(request, name, min(pause * 2, 0.1), waited + pause)

            self._loop.call_later(pause, again)
        else:
            self._log(f"dropped a request: nobody reads replies/{name}")

    def _open_reply(self, path: str, name: str) -> FifoReply | int:
        """The opened reply, or the errno that says why not."""
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._log(f"cannot open replies/{name}: {error.strerror}")
                return errno.ENXIO
            return error.errno or errno.EIO
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return FifoReply(self._loop, path, descriptor)
        os.close(descriptor)
        return errno.EINVAL
