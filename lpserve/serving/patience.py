# SPDX-License-Identifier: GPL-2.0-or-later

"""Writes answers with a time-out, and standard error without waiting for long.

Descriptors 0 to 2 stay blocking, because other processes may share them. Therefore a
timer interrupts writes that block, and checks whether the other end makes progress.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import signal
import stat
import sys
import time
from collections.abc import Iterator
from typing import Any

from .. import scoreboard
from ..errors import ClientError

try:
    import fcntl
    import termios
except ImportError:  # Windows, where nothing is timed out
    HAS_POLL = False
else:
    HAS_POLL = hasattr(select, "poll")

#: Bytes that `Output` buffers.
BUFFER = 1 << 16
#: The most bytes of one write to a socket, whose kernel buffers show as unread until
#: they have been read completely.
SOCKET_PIECE = 1 << 15
#: The most bytes of a file that are written at once.
FILE_PIECE = 1 << 20
#: The size of a pipe that files are written to. An account may have 64 MiB of pipes
#: (pipe(7), pipe-user-pages-soft); whatever pipes it makes then have 8 KiB.
FILE_PIPE = 1 << 18
#: Seconds to wait for room at standard error.
STDERR_PATIENCE = 5.0
# The longest time-out of poll(2), in ms.
_LONGEST_POLL = (1 << 31) - 1


def milliseconds(seconds: float) -> float:
    """*seconds* in milliseconds, but at most what poll(2) accepts."""
    return min(seconds * 1000, _LONGEST_POLL)


class Output:
    """A buffered stream to a client that may stop reading.

    :param patience: a write fails with `ClientError` after the client has read nothing
        for so many seconds; 0: never.
    :ivar error: the exception of a failed write. Nothing is written after it, because
        the client may have received any part of the data.
    """

    def __init__(self, descriptor: int, patience: float):
        self.error: BaseException | None = None
        self.closed = False
        self._descriptor = descriptor
        self._patience = patience if HAS_POLL else 0
        self._pending: list[bytes] = []
        self._size = 0
        self._written = 0
        self._seen = (0, 0)
        self._since = 0.0
        self._socket = stat.S_ISSOCK(os.fstat(descriptor).st_mode)
        if self._patience:
            self._poller = select.poll()
            self._poller.register(descriptor, select.POLLOUT)

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def write(self, data: bytes) -> None:
        """Buffer *data*, or write it together with the buffer if that is full."""
        self._size += len(data)
        if self._size < BUFFER:
            self._pending.append(data)
        else:
            self.flush()
            self._put(data)  # not copied

    def flush(self) -> None:
        """Write the buffer.

        :raises ClientError: if the client does not read.
        :raises OSError: as write(2).
        """
        if self.error is not None:
            raise self.error
        self._size = 0
        if self._pending:
            data = b"".join(self._pending)
            self._pending.clear()
            self._put(data)

    def _put(self, data: bytes) -> None:
        try:
            # A descriptor that poll(2) calls writable takes PIPE_BUF bytes.
            if not self._patience or (
                len(data) <= select.PIPE_BUF and self._poller.poll(0)
            ):
                self._write(data)
            else:
                with self._interrupted():
                    self._write(data)
        except BaseException as error:
            self.error = error
            raise

    def send_file(self, file: int, start: int, end: int) -> None:
        """Write the buffer, and bytes of a file, which this process does not read.

        :param file: a descriptor.
        :param start, end: where the bytes are in the file.
        :raises OSError: as sendfile(2); EIO if the file ends before *end*.
        """
        self.flush()
        if end - start >= FILE_PIECE and not self._socket:
            # Most of the processor time is for wake-ups.
            with contextlib.suppress(OSError):
                fcntl.fcntl(self._descriptor, fcntl.F_SETPIPE_SZ, FILE_PIPE)
        try:
            with self._interrupted() if self._patience else contextlib.nullcontext():
                while start < end:
                    size = min(end - start, FILE_PIECE)
                    count = os.sendfile(self._descriptor, file, start, size)
                    if not count:
                        raise OSError(errno.EIO, os.strerror(errno.EIO))
                    self._count(count)
                    start += count
        except BaseException as error:
            self.error = error
            raise

    def send_some(self, file: int, start: int, end: int) -> int:
        """Write bytes of a file as long as the client takes them at once.

        The buffer is empty. The parameters are those of `send_file`.

        :returns: where the bytes begin that are left.
        :raises OSError: as write(2).
        """
        poller = select.poll()
        poller.register(self._descriptor, select.POLLOUT)
        try:
            while start < end and poller.poll(0):
                # What poll(2) calls writable takes PIPE_BUF bytes.
                piece = os.pread(file, min(end - start, select.PIPE_BUF), start)
                count = os.write(self._descriptor, piece)
                self._count(count)
                start += count
        except BaseException as error:
            self.error = error
            raise
        return start

    def wait_closed(self, seconds: float) -> bool:
        """Wait until the client closes its end, for so many seconds; whether it has."""
        poller = select.poll()
        poller.register(self._descriptor, 0)  # that it is closed is always reported
        return bool(poller.poll(milliseconds(seconds)))

    def close(self) -> None:
        """Flush; the descriptor stays open."""
        if not self.closed:
            self.closed = True
            self.flush()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        piece = SOCKET_PIECE if self._socket else len(data)
        while view:
            count = os.write(self._descriptor, view[:piece])
            self._count(count)
            view = view[count:]

    def _count(self, count: int) -> None:
        self._written += count
        numbers = scoreboard.current.numbers
        numbers[scoreboard.BYTES_OUT] += count
        if not numbers[scoreboard.FIRST_BYTE]:
            numbers[scoreboard.FIRST_BYTE] = time.monotonic_ns()

    @contextlib.contextmanager
    def _interrupted(self) -> Iterator[None]:
        """Call `_look` periodically, even during a write."""
        tick = min(self._patience / 4, 15.0)
        self._seen, self._since = self._progress(), time.monotonic()
        before = signal.signal(signal.SIGALRM, self._look)
        try:
            signal.setitimer(signal.ITIMER_REAL, tick, tick)
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._since = float("inf")  # for a pending signal
            signal.signal(signal.SIGALRM, before)

    def _look(self, number: int, frame: Any) -> None:
        seen, now = self._progress(), time.monotonic()
        if seen != self._seen:
            self._seen, self._since = seen, now
        elif now - self._since >= self._patience:
            raise ClientError(
                f"the client read nothing of its answer for {self._patience:g} s"
            )

    def _progress(self) -> tuple[int, int]:
        """The bytes that were written, and those of them that are unread."""
        left = bytearray(4)
        with contextlib.suppress(OSError):
            ask = termios.TIOCOUTQ if self._socket else termios.FIONREAD
            fcntl.ioctl(self._descriptor, ask, left)
        return self._written, int.from_bytes(left, sys.byteorder)


def write_aside(data: bytes, patience: float) -> bool:
    """Write *data* to standard error, unless its reader has stopped reading.

    :param patience: seconds to wait for room.
    :returns: False if some of it was dropped.
    :raises OSError: as write(2).
    """
    if not HAS_POLL:
        os.write(2, data)
        return True
    poller = select.poll()
    poller.register(2, select.POLLOUT)
    while data:
        if not poller.poll(milliseconds(patience)):
            return False
        # A descriptor that poll(2) calls writable takes PIPE_BUF bytes.
        count = os.write(2, data[: select.PIPE_BUF])
        data = data[count:]
    return True


class StandardError(io.RawIOBase):
    """Standard error of a connection, which drops output that its reader does not read.

    The first time it waits `STDERR_PATIENCE` seconds for room; then it does not wait
    until there is room again.
    """

    _patience = STDERR_PATIENCE

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return 2."""
        return 2

    def isatty(self) -> bool:
        """Whether standard error is a terminal."""
        return os.isatty(2)

    def write(self, data: Any) -> int:
        """Write or drop *data*; its length."""
        there = write_aside(bytes(data), self._patience)
        self._patience = STDERR_PATIENCE if there else 0.0
        return len(data)
