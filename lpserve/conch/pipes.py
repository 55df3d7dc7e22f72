# SPDX-License-Identifier: GPL-2.0-or-later

"""The part of a process transport that is about the pipes to the process."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IConsumer, IPushProducer
from zope.interface import implementer


@implementer(IPushProducer, IConsumer)
class Pipes:
    """Our ends of the standard input, output and error of a process.

    It consumes what goes to its input, and produces what comes from the others.

    :ivar pipes: those that are open, by their numbers in the process.
    """

    def __init__(self) -> None:
        self.pipes: dict[int, Any] = {}
        self._hung_up = False

    def replace(self, pipes: dict[int, Any]) -> None:
        """Go on with the *pipes* of a process that Twisted has started.

        What those until now, of `fifos`, were told and given is theirs.
        """
        before, self.pipes = self.pipes, pipes
        stdin = before[0]
        if written := stdin.take():
            # To write nothing would make Twisted's writer deaf.
            pipes[0].write(written)
        if stdin.producer is not None:
            pipes[0].registerProducer(stdin.producer, stdin.streamingProducer)
            pipes[0].producerPaused = stdin.producerPaused
        for number, pipe in before.items():
            if pipe.disconnecting:
                self.closeChildFD(number)
            elif number and pipe.paused:
                pipes[number].stopReading()

    # -- closing them ----------------------------------------------------------

    def closeStdin(self) -> None:
        """Close it when what was written has been passed on."""
        self.closeChildFD(0)

    def closeStdout(self) -> None:
        """Take no more of what the worker writes."""
        self.closeChildFD(1)

    def closeStderr(self) -> None:
        """Take no more of the worker's errors."""
        self.closeChildFD(2)

    def closeChildFD(self, descriptor: int) -> None:
        """Close our end of one of 0, 1 and 2."""
        if descriptor in self.pipes:
            self.pipes[descriptor].loseConnection()
            if descriptor == 0:
                # Twisted would not close it as long as a producer is paused.
                self.pipes[descriptor].unregisterProducer()

    def loseConnection(self) -> None:
        """Close all three; a worker notices and ends."""
        self._hung_up = True
        for number in (0, 2, 1):
            self.closeChildFD(number)

    # -- ITransport, IConsumer: the worker's standard input --------------------

    def write(self, data: bytes) -> None:
        """Write to standard input; nothing where that is closed."""
        if data and 0 in self.pipes:
            self.pipes[0].write(data)

    def writeSequence(self, data: Any) -> None:
        """Write several."""
        self.write(b"".join(data))

    def writeToChild(self, childFD: int, data: bytes) -> None:
        """Write to standard input, which is 0.

        :raises KeyError: for another, and where it is closed.
        """
        if childFD:
            raise KeyError(childFD)
        self.pipes[childFD].write(data)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Pause *producer* while the worker has enough to read."""
        if 0 in self.pipes:
            self.pipes[0].registerProducer(producer, streaming)
        else:
            producer.stopProducing()

    def unregisterProducer(self) -> None:
        """Have no producer any more."""
        if 0 in self.pipes:
            self.pipes[0].unregisterProducer()

    def getHost(self) -> Any:
        """A process has no address."""
        raise NotImplementedError

    getPeer = getHost

    # -- IPushProducer: the worker's standard output and error -----------------

    def pauseProducing(self) -> None:
        """Leave what comes, so that the worker has to wait."""
        for number in {1, 2} & set(self.pipes):
            self.pipes[number].stopReading()

    def resumeProducing(self) -> None:
        """Go on."""
        for number in {1, 2} & set(self.pipes):
            self.pipes[number].startReading()

    def stopProducing(self) -> None:
        """Nobody wants it any more."""
        self.loseConnection()
