# SPDX-License-Identifier: GPL-2.0-or-later

"""The ends of a worker's FIFOs as Twisted's reactor sees them.

Twisted has such readers and writers for the pipes of processes that it starts
itself. These differ in that they are there before their FIFO is.
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
    """Close it in the reactor's next turn, if it is one.

    In this one the reactor may have something to say of it still, which it would
    say of whatever is opened now and gets its number.
    """
    if descriptor >= 0:
        reactor.callLater(0, os.close, descriptor)


class _End(abstract.FileDescriptor):
    """Our end of a FIFO of a worker's, to be opened later.

    :param number: that of the other end in the worker.
    :param lost: called with the number, once, when this end is closed.
    """

    connected = 1

    def __init__(self, reactor: Any, number: int, lost: Lost):
        super().__init__(reactor)
        self._number = number
        self._lost = lost
        self._fd = -1

    def fileno(self) -> int:
        """The descriptor, -1 where there is none yet or any more."""
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
    """Our end of a worker's standard input, to be opened later.

    What is written before is kept; a producer is paused when it becomes much.

    :param lost: called once, when this end is closed.
    """

    def __init__(self, reactor: Any, lost: Lost):
        super().__init__(reactor, 0, lost)

    def open(self, descriptor: int) -> None:
        """Write to *descriptor*, which does not block, from now on."""
        self._fd = descriptor
        self.startReading()
        if self._tempDataBuffer or self.disconnecting:
            self.startWriting()

    def take(self) -> bytes:
        """What was written and has not been passed on; it is not kept."""
        taken = b"".join([self.dataBuffer[self.offset :], *self._tempDataBuffer])
        self.dataBuffer, self.offset = b"", 0
        self._tempDataBuffer, self._tempDataLen = [], 0
        return taken

    def startReading(self) -> None:
        """Have an eye on the other end: that is all that can be read here."""
        if self._fd >= 0:
            super().startReading()

    def startWriting(self) -> None:
        """Write when there is room."""
        if self._fd >= 0:
            super().startWriting()

    def doRead(self) -> Exception:
        """The other end is closed: reactors report it as something to read."""
        return main.CONNECTION_LOST

    def writeSomeData(self, data: bytes) -> int | Exception:
        """Write what there is room for; how many bytes that was."""
        return fdesc.writeToFD(self._fd, data)

    def drain(self) -> None:
        """Close: the worker has ended, and nobody reads any more."""
        self.connectionLost(Failure(main.CONNECTION_DONE))


class Reader(_End):
    """Our end of a worker's standard output or error, to be opened later.

    :param number: 1 or 2.
    :param received: called with the number and what was read.
    :param lost: called with the number, once, when this end is closed.
    :ivar paused: whether what comes is left where it is.
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
        #: Whether to close it once there is nothing more to read.
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
        """Go on after `stopReading`."""
        self.paused = False
        if self._fd >= 0 and not self.disconnecting:
            super().startReading()

    def stopReading(self) -> None:
        """Leave what comes where it is, so that the worker has to wait."""
        self.paused = True
        if self._fd >= 0:
            super().stopReading()

    def doRead(self) -> Exception | None:
        """Pass on what is there."""
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
        """Close when all that is there has been read: the worker has ended.

        What it has started and left behind may have the other end open.
        """
        self._draining = True
        if self._fd < 0 or not self._something_there():
            self._close()

    def _something_there(self) -> bool:
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        return any(events & select.POLLIN for _, events in poller.poll(0))

    def loseConnection(self) -> None:
        """Read no more, and close."""
        if self.connected and not self.disconnecting:
            self.disconnecting = 1
            if self._fd >= 0:
                self._close_soon()

    def _close_soon(self) -> None:
        if self._path and os.path.exists(self._path):
            # The worker has not opened it, and would wait for us in vain: it is
            # closed at the first sign of the worker.
            super().startReading()
        else:
            self.reactor.callLater(0, self._close)

    def _close(self) -> None:
        self.connectionLost(Failure(main.CONNECTION_DONE))


@implementer(IReadDescriptor, IWriteDescriptor)
class DescriptorWatcher:
    """Tells when a descriptor, which remains its owner's, is ready.

    :param event: called when it can be read, or is of no more use.
    :param room: called when it can be written.
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
        """What Twisted puts before a line of the log."""
        return "lpserve"

    def doRead(self) -> None:
        """It can be read."""
        self._event()

    def doWrite(self) -> None:
        """It can be written."""
        assert self._room is not None
        self._room()

    def no_more_room_wanted(self) -> None:
        """Tell no more when it can be written."""
        self._reactor.removeWriter(self)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has stopped to watch it."""
        self._event()

    def stop(self) -> None:
        """Tell nothing more; before the owner closes the descriptor."""
        self._reactor.removeReader(self)
        self._reactor.removeWriter(self)
