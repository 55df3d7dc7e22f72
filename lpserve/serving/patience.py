# SPDX-License-Identifier: GPL-2.0-or-later

"""Writing to those who may not read, and waiting for those who may not write.

Descriptors 0 to 2 stay blocking, because others may share them. So what may block
is interrupted by a timer, which looks whether the other end still does something.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import stat
import sys
import time
from collections.abc import Iterator
from typing import Any

from ..errors import ClientError

try:
    import fcntl
    import termios
except ImportError:  # Windows, where nothing is timed out
    HAS_POLL = False
else:
    HAS_POLL = hasattr(select, "poll")

#: Bytes that `Output` collects before it writes them.
BUFFER = 1 << 16
#: Most bytes that one write gives a socket: the kernel tells of a piece that was
#: read, not of half of one.
SOCKET_PIECE = 1 << 15
#: Seconds that standard error is waited for.
STDERR_PATIENCE = 5.0
# What poll(2) takes, in ms.
_LONGEST_POLL = (1 << 31) - 1


def milliseconds(seconds: float) -> float:
    """As much of *seconds* as poll can wait."""
    return min(seconds * 1000, _LONGEST_POLL)


class Output:
    """A buffered stream to a client that may stop reading.

    :param patience: seconds without room after which a write fails with
        `ClientError`, in which the client has taken nothing; 0: never.
    :ivar error: what a write has failed with. Nothing is written after it: what
        has arrived is not known.
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

    def write(self, data: bytes) -> None:
        """Write *data*, or keep it for the next time; see `flush`."""
        self._size += len(data)
        if self._size < BUFFER:
            self._pending.append(data)
        else:
            self.flush()
            self._put(data)  # not copied

    def flush(self) -> None:
        """Write what is kept.

        :raises ClientError, OSError: if that cannot be.
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
            # Where there is room at all there is room for so much.
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

    def close(self) -> None:
        """Write what is kept and take no more; the descriptor stays open."""
        if not self.closed:
            self.closed = True
            self.flush()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        piece = SOCKET_PIECE if self._socket else len(data)
        while view:
            count = os.write(self._descriptor, view[:piece])
            self._written += count
            view = view[count:]

    @contextlib.contextmanager
    def _interrupted(self) -> Iterator[None]:
        """Have `_look` called now and then, in the middle of a write too."""
        tick = min(self._patience / 4, 15.0)
        self._seen, self._since = self._progress(), time.monotonic()
        before = signal.signal(signal.SIGALRM, self._look)
        try:
            signal.setitimer(signal.ITIMER_REAL, tick, tick)
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._since = float("inf")  # one that is on its way finds nothing wrong
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
        """Bytes that were written, and those of them that were not read."""
        left = bytearray(4)
        with contextlib.suppress(OSError):
            ask = termios.TIOCOUTQ if self._socket else termios.FIONREAD
            fcntl.ioctl(self._descriptor, ask, left)
        return self._written, int.from_bytes(left, sys.byteorder)


def write_aside(data: bytes, patience: float) -> bool:
    """Write *data* to standard error unless nobody reads it.

    :param patience: seconds that there may be no room.
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
        # Where there is room at all there is room for so much.
        count = os.write(2, data[: select.PIPE_BUF])
        data = data[count:]
    return True


class StandardError(io.RawIOBase):
    """Standard error for a connection: nobody waits long for one who does not read.

    What there is no room for is dropped, at once from the second time on.
    """

    _patience = STDERR_PATIENCE

    def writable(self) -> bool:
        """It is."""
        return True

    def fileno(self) -> int:
        """Standard error."""
        return 2

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(2)

    def write(self, data: Any) -> int:
        """Write *data*, or drop it; its length."""
        there = write_aside(bytes(data), self._patience)
        self._patience = STDERR_PATIENCE if there else 0.0
        return len(data)
