# SPDX-License-Identifier: GPL-2.0-or-later

"""The control FIFO, and the ways back for answers."""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Callable

from ..paths import RuntimeDirectory
from ..wire import Request, RequestError, RequestReader
from .door import Door
from .loop import Callback, Loop, Timer

#: Seconds that a request waits for a reader of its reply FIFO, so that a shell can
#: write the request before it starts ``cat``.
REPLY_GRACE = 2.0
#: How many requests may wait for that at once; more are dropped.
MOST_WAIT = 256
#: Seconds that an answer waits for the reader of a FIFO that is full.
ANSWER_PATIENCE = 60.0
#: How many lines are handled in one iteration of the loop.
_AT_ONCE = 64

_blank_lines = re.compile(rb"\n\s*\n")


def noop() -> None:
    """Do nothing."""


class Reply:
    """Receives the answers to one request; this base class discards them.

    :ivar path: of the reply FIFO, or None.
    :ivar peer: the pid and uid of the requester, which are known at the socket only
        (SO_PEERCRED of socket(7)); or None.
    :ivar attached: descriptors for a worker, at the socket only: the connection on
        which it answers, and its standard input, output and error.
    :ivar on_disconnect: called if the requester closes before the last answer.
    """

    path: str | None = None
    peer: tuple[int, int] | None = None
    attached: tuple[int, ...] = ()

    def __init__(self) -> None:
        self.on_disconnect: Callback = noop

    @property
    def by_owner(self) -> bool:
        """Whether root asked, or the service's own user: who else gets to the FIFO?"""
        return self.peer is None or self.peer[1] in (0, os.geteuid())

    @property
    def door(self) -> str:
        """Through which door the request came: "fifo" or "socket"."""
        return "fifo" if self.peer is None else "socket"

    def watch(self) -> None:
        """Have `on_disconnect` called from now on, if that is not so already.

        At a FIFO until the next answer: most requesters have theirs at once.

        :raises OSError: if that is not possible.
        """

    def hand_over(self) -> None:
        """A worker has received the descriptors `attached`."""

    def send(self, line: bytes) -> bool:
        """Send *line* without waiting; False if the requester has gone."""
        return True

    def close(self) -> None:
        """End the answers to the request."""


Handler = Callable[["Request | RequestError", Reply], None]


class FifoReply(Reply):
    """A reply FIFO with a reader; created by `ControlFifo`."""

    def __init__(self, loop: Loop, path: str, descriptor: int):
        super().__init__()
        self.path = path
        self._loop = loop
        self._descriptor = descriptor
        self._waiting: Timer | None = None
        self._unsent = b""
        self._closing = False
        self._watched = False

    def watch(self) -> None:
        """See `Reply.watch`: it has no reader any more."""
        if self._descriptor >= 0 and self._waiting is None and not self._watched:
            self._loop.watch_hang_up(self._descriptor, self._gone)
            self._watched = True

    def _gone(self) -> None:
        self._unwatch()
        self.on_disconnect()

    def _unwatch(self) -> None:
        if self._watched:
            self._watched = False
            self._loop.forget(self._descriptor)

    def send(self, line: bytes) -> bool:
        """Write *line* without waiting; False if there is no reader any more."""
        self._unsent += line
        self._unwatch()
        if self._descriptor >= 0 and self._waiting is None:
            self._write()
        return self._descriptor >= 0

    def close(self) -> None:
        """Close the FIFO after all pending answers have been written."""
        self._closing = True
        if self._waiting is None:
            self._release()

    def _write(self) -> None:
        try:
            while self._unsent:
                self._unsent = self._unsent[os.write(self._descriptor, self._unsent) :]
        except BlockingIOError:
            if self._waiting is None:
                self._loop.watch_writable(self._descriptor, self._write)
                self._waiting = self._loop.call_later(ANSWER_PATIENCE, self._release)
            return
        except OSError:  # the reader has gone
            self._release()
            return
        self._stop_waiting()
        if self._closing:
            self._release()

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
            self._loop.forget(self._descriptor)

    def _release(self) -> None:
        if self._descriptor >= 0:
            self._stop_waiting()
            self._unwatch()
            os.close(self._descriptor)
            self._descriptor = -1


class ControlFifo(Door):
    """The control FIFO.

    :param handle: called with each request, or the error for an invalid one, and the
        `Reply` for its answers.
    :param log: called with a line for each request that is dropped.
    """

    name = "control"

    def __init__(
        self,
        loop: Loop,
        directory: RuntimeDirectory,
        handle: Handler,
        log: Callable[[str], None],
        given: int | None = None,
        lasting: bool = True,
    ):
        super().__init__(directory.control, given, lasting)
        self._loop = loop
        self._directory = directory
        self._handle = handle
        self._log = log
        self._reader = RequestReader()
        # Bytes that have been read and not handled yet.
        self._read_ahead = b""
        self._expiry: Timer | None = None
        self._descriptor = -1
        self._watched = False
        self._looking = 0

    def open(self) -> None:
        """Create the FIFO and watch it.

        :raises OSError: if it cannot be created.
        """
        temporary = os.path.join(self._directory.path, ".new-control")
        if self.given is not None:
            # Nobody else reads it now: systemd only polls it.
            os.set_blocking(self.given, False)
            self._descriptor = self.given
        else:
            os.mkfifo(temporary, 0o600)
            # For reading and writing: with a writer open there is no end of file.
            self._descriptor = os.open(temporary, os.O_RDWR | os.O_NONBLOCK)
        try:
            self.put_in_place(temporary)
        except OSError:
            os.close(self._descriptor)
            raise
        self.read_on()

    @property
    def descriptor(self) -> int:
        """See `Door.descriptor`."""
        return self._descriptor

    def read_on(self) -> None:
        """See `Door.read_on`."""
        self._watched = True
        self._loop.watch(self._descriptor, self._read)

    def leave(self) -> bool:
        """See `Door.leave`: what has been read is handled."""
        if self._watched:
            self._forget()
            self._understand_all()
        return False

    def close(self) -> None:
        """Answer the requests that were written, and remove the FIFO."""
        if not self.is_open:
            return
        self.remove()
        if self._watched:
            self._understand_all()
            self._read()
            self._understand_all()
            self._forget()
        os.close(self._descriptor)
        self._descriptor = -1

    def _forget(self) -> None:
        self._watched = False
        self._loop.forget(self._descriptor)

    def _read(self) -> None:
        if self._read_ahead:
            return  # `_understand` is scheduled for them
        try:
            # The size of a pipe, so that a read does not cut a request in two.
            data = os.read(self._descriptor, 1 << 16)
        except BlockingIOError:
            return
        # A pipe full of newlines has 65536 empty lines; this drops them at once.
        self._read_ahead = _blank_lines.sub(b"\n", data)
        self._understand()

    def _understand_all(self) -> None:
        while self._read_ahead:
            self._understand()

    def _understand(self) -> None:
        """Handle the first `_AT_ONCE` lines; schedule the rest."""
        *lines, rest = self._read_ahead.split(b"\n", _AT_ONCE)
        if len(lines) < _AT_ONCE:
            data, self._read_ahead = self._read_ahead, b""
        else:
            data, self._read_ahead = b"\n".join([*lines, b""]), rest
        if self._read_ahead:
            self._loop.call_later(0, self._understand)
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
            self._handle(request, Reply())
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
            self._log(f"dropped a request: no reader of replies/{name}")

    def _open_reply(self, path: str, name: str) -> FifoReply | int:
        """Open the reply FIFO; the errno if that fails."""
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
