# SPDX-License-Identifier: GPL-2.0-or-later

"""Readers and writers of the reactor for a worker's FIFOs.

They are like Twisted's readers and writers for the pipes of a process, but exist before
their FIFO is opened.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from typing import Any

from twisted.internet import abstract, fdesc, main
from twisted.internet.interfaces import IReadDescriptor, IWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

#: Bytes read at a time: what a pipe holds (pipe(7)).
_CHUNK = 65536

#: Called with the number of the descriptor in the worker when an end is closed.
Lost = Callable[[int], None]


def close_soon(reactor: Any, descriptor: int) -> None:
    """Close *descriptor* in the next iteration of the reactor, unless it is -1.

    In this iteration, the reactor may still have an event for it. If a file that is
    opened now got the same number, that would get the event.
    """
    if descriptor >= 0:
        reactor.callLater(0, os.close, descriptor)


class _End(abstract.FileDescriptor):
    """Our end of a worker's FIFO, opened later.

    :param number: the descriptor of the other end in the worker.
    :param lost: called with the number, once, when this end is closed.
    """

    connected = 1

    def __init__(self, reactor: Any, number: int, lost: Lost):
        super().__init__(reactor)
        self._number = number
        self._lost = lost
        self._fd = -1

    def fileno(self) -> int:
        """The descriptor; -1 while the FIFO is not open."""
        return self._fd

    def connectionLost(self, reason: Failure) -> None:
        """Close this end."""
        if self.disconnected:
            return
        super().connectionLost(reason)
        close_soon(self.reactor, self._fd)
        self._fd = -1
        self._lost(self._number)


class Writer(_End):
    """Our end of a worker's standard input, opened later.

    Data that is written before is buffered. A producer is paused if that is much.

    :param lost: called once, when this end is closed.
    """

    def __init__(self, reactor: Any, lost: Lost):
        super().__init__(reactor, 0, lost)
        self._received: Callable[[bytes], None] | None = None
        self._ended: Callable[[], None] | None = None

    def open(self, descriptor: int) -> None:
        """Write to *descriptor*, which does not block, from now on."""
        self._fd = descriptor
        self.startReading()
        if self._tempDataBuffer or self.disconnecting:
            self.startWriting()

    def divert(
        self, received: Callable[[bytes], None], ended: Callable[[], None]
    ) -> None:
        """Pass the buffered data, and what is written later, to *received*.

        :param ended: called when this end is closed by us.
        """
        self._received, self._ended = received, ended
        self.startWriting()
        if self.disconnecting:
            ended()

    def take(self) -> bytes:
        """Remove and return the buffered data."""
        taken = b"".join([self.dataBuffer[self.offset :], *self._tempDataBuffer])
        self.dataBuffer, self.offset = b"", 0
        self._tempDataBuffer, self._tempDataLen = [], 0
        return taken

    def startReading(self) -> None:
        """Watch for the close of the other end, which is reported as readable."""
        if self._fd >= 0:
            super().startReading()

    def startWriting(self) -> None:
        """Write the buffered data when there is room."""
        if self._fd >= 0:
            super().startWriting()
        elif self._received is not None and (data := self.take()):
            self._received(data)

    def loseConnection(self) -> None:
        """Close after everything written has been passed on."""
        super().loseConnection()
        if self._ended is not None:
            self._ended()

    def doRead(self) -> Exception:
        """The other end was closed."""
        return main.CONNECTION_LOST

    def writeSomeData(self, data: bytes) -> int | Exception:
        """Write some of *data*; the number of bytes, or an exception."""
        return fdesc.writeToFD(self._fd, data)

    def drain(self) -> None:
        """Close, because the worker has ended."""
        self.connectionLost(Failure(main.CONNECTION_DONE))


class Reader(_End):
    """Our end of a worker's standard output or error, opened later.

    :param number: 1 or 2.
    :param received: called with the number and the data that was read.
    :param lost: called with the number, once, when this end is closed.
    :ivar paused: whether reading is paused.
    """

    def __init__(
        self,
        reactor: Any,
        number: int,
        received: Callable[[int, bytes], None],
        lost: Lost,
    ):
        super().__init__(reactor, number, lost)
        self._received = received
        self._path = ""
        #: Whether to close as soon as the FIFO is empty.
        self._draining = False
        self.paused = False

    def open(self, descriptor: int, path: str) -> None:
        """Read from *descriptor*, the FIFO *path*, from now on."""
        self._fd, self._path = descriptor, path
        if self.disconnecting:
            self._close_soon()
        elif not self.paused:
            super().startReading()

    def startReading(self) -> None:
        """Continue after `stopReading`."""
        self.paused = False
        if self._fd >= 0 and not self.disconnecting:
            super().startReading()

    def stopReading(self) -> None:
        """Pause reading, so that the worker blocks."""
        self.paused = True
        if self._fd >= 0:
            super().stopReading()

    def doRead(self) -> Exception | None:
        """Read, and pass the data on."""
        if self.disconnecting:
            return main.CONNECTION_DONE
        try:
            data = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return None
        except OSError:
            return main.CONNECTION_LOST
        if not data:
            return main.CONNECTION_DONE
        self._received(self._number, data)
        if self._draining and not self.disconnected and not self._something_there():
            return main.CONNECTION_DONE
        return None

    def drain(self) -> None:
        """Close as soon as the FIFO is empty, because the worker has ended.

        There may be no end of file: a process that the worker has started may have
        the other end open.
        """
        self._draining = True
        if self._fd < 0 or not self._something_there():
            self._close()

    def _something_there(self) -> bool:
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        return any(events & select.POLLIN for _, events in poller.poll(0))

    def loseConnection(self) -> None:
        """Stop reading, and close."""
        if self.connected and not self.disconnecting:
            self.disconnecting = 1
            if self._fd >= 0:
                self._close_soon()

    def _close_soon(self) -> None:
        if self._path and os.path.exists(self._path):
            # The worker has not opened the FIFO yet, and its open(2) waits for a
            # reader. Close at the first event, once it has.
            super().startReading()
        else:
            self.reactor.callLater(0, self._close)

    def _close(self) -> None:
        self.connectionLost(Failure(main.CONNECTION_DONE))


@implementer(IReadDescriptor, IWriteDescriptor)
class DescriptorWatcher:
    """Watches a descriptor, without owning it.

    :param event: called when it is readable, or has an error.
    :param room: called when it is writable; None: not watched.
    """

    def __init__(
        self,
        reactor: Any,
        descriptor: int,
        event: Callable[[], None],
        room: Callable[[], None] | None = None,
    ):
        self._reactor = reactor
        self._fd = descriptor
        self._event = event
        self._room = room
        reactor.addReader(self)
        if room is not None:
            reactor.addWriter(self)

    def fileno(self) -> int:
        """The descriptor."""
        return self._fd

    def logPrefix(self) -> str:
        """The prefix of Twisted's log lines."""
        return "lpserve"

    def doRead(self) -> None:
        """The descriptor is readable."""
        self._event()

    def doWrite(self) -> None:
        """The descriptor is writable."""
        assert self._room is not None
        self._room()

    def no_more_room_wanted(self) -> None:
        """Stop watching whether it is writable."""
        self._reactor.removeWriter(self)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has stopped watching, because of an error."""
        self._event()

    def stop(self) -> None:
        """Stop watching; to be called before the owner closes the descriptor."""
        self._reactor.removeReader(self)
        self._reactor.removeWriter(self)
