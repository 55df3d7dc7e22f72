# SPDX-License-Identifier: GPL-2.0-or-later

"""The pipes of a process transport, and a process in its place."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IConsumer, IPushProducer
from twisted.internet.protocol import ProcessProtocol
from zope.interface import implementer


@implementer(IPushProducer, IConsumer)
class Pipes:
    """Our ends of the standard input, output and error of a process.

    It is a consumer for the standard input, and a producer of the output and errors.

    :ivar pipes: the open ends, by their descriptors in the process (0, 1, 2).
    """

    def __init__(self) -> None:
        self.pipes: dict[int, Any] = {}
        self._hung_up = False

    def replace(self, pipes: dict[int, Any]) -> None:
        """Continue with the *pipes* of a process that Twisted has started.

        They take over the data and the state of the previous pipes, of `fifos`.
        """
        before, self.pipes = self.pipes, pipes
        stdin = before[0]
        if written := stdin.take():
            # Twisted's writer must not be given b"": it would stop writing.
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
        """Close standard input after everything written has been passed on."""
        self.closeChildFD(0)

    def closeStdout(self) -> None:
        """Close our end of standard output."""
        self.closeChildFD(1)

    def closeStderr(self) -> None:
        """Close our end of standard error."""
        self.closeChildFD(2)

    def closeChildFD(self, descriptor: int) -> None:
        """Close our end of *descriptor* (0, 1 or 2)."""
        if descriptor in self.pipes:
            self.pipes[descriptor].loseConnection()
            if descriptor == 0:
                # Twisted does not close it while a producer is paused.
                self.pipes[descriptor].unregisterProducer()

    def loseConnection(self) -> None:
        """Close all three, at which a worker ends."""
        self._hung_up = True
        for number in (0, 2, 1):
            self.closeChildFD(number)

    # -- ITransport, IConsumer: the worker's standard input --------------------

    def write(self, data: bytes) -> None:
        """Write to standard input; no effect if that is closed."""
        if data and 0 in self.pipes:
            self.pipes[0].write(data)

    def writeSequence(self, data: Any) -> None:
        """Write a sequence of bytes objects to standard input."""
        self.write(b"".join(data))

    def writeToChild(self, childFD: int, data: bytes) -> None:
        """Write to standard input, which is 0.

        :raises KeyError: if *childFD* is not 0, or is closed.
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
        """Unregister the producer."""
        if 0 in self.pipes:
            self.pipes[0].unregisterProducer()

    def getHost(self) -> Any:
        """Raise NotImplementedError: a process has no address."""
        raise NotImplementedError

    getPeer = getHost

    # -- IPushProducer: the worker's standard output and error -----------------

    def pauseProducing(self) -> None:
        """Stop reading, so that the worker blocks."""
        for number in {1, 2} & set(self.pipes):
            self.pipes[number].stopReading()

    def resumeProducing(self) -> None:
        """Start reading again."""
        for number in {1, 2} & set(self.pipes):
            self.pipes[number].startReading()

    def stopProducing(self) -> None:
        """Close all three."""
        self.loseConnection()


class Substitute(ProcessProtocol):
    """The protocol of a process in place of a worker; forwards to the transport.

    :param owner: a `transport.WorkerTransport`.
    """

    def __init__(self, owner: Any):
        self.childDataReceived = owner.childDataReceived
        self.childConnectionLost = owner.childConnectionLost
        self.processExited = owner.processExited
