# SPDX-License-Identifier: GPL-2.0-or-later

"""The sessions of the SSH server: "exec" becomes a connection of a worker."""

from __future__ import annotations

import logging
import os
import struct
import time
from dataclasses import replace
from typing import Any

from twisted.conch.interfaces import ISession
from twisted.conch.ssh.common import getNS
from twisted.conch.ssh.connection import EXTENDED_DATA_STDERR
from twisted.conch.ssh.session import SSHSession
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from ..client.client import EX_TEMPFAIL, EX_USAGE
from ..client.sshcommand import command_fault
from ..conch.refusing import Refusal
from ..conch.transport import WorkerTransport
from .record import Record

log = logging.getLogger("lpserve")

#: How many keepalives a client may leave unanswered.
MAX_UNANSWERED = 3
#: Bytes that a client may send before the worker has read them.
_WINDOW = 1 << 20


@implementer(IPushProducer)
class Session(SSHSession):
    """A session, which can only execute commands of Bazaar clients.

    As a producer, it produces the data from the client for the worker.

    :ivar full: whether the worker is slow to read, and the client has to wait.
    :ivar ended: whether to send the end of file once all data has been sent.
    """

    full = ended = False
    record: Record | None = None
    _refusal: Refusal | None = None

    def __init__(self, *args: Any, **keywords: Any):
        super().__init__(*args, **keywords)
        self.localWindowSize = self.localWindowLeft = _WINDOW
        self._window_open = True
        self._eof = self._receiving_stopped = False
        self._stuck = 0

    # -- requests of the client ------------------------------------------------

    def request_exec(self, data: bytes) -> int:
        """Serve the command if a Bazaar client sends such commands."""
        try:
            command = getNS(data)[0].decode("utf-8", "replace")
        except struct.error:
            return 0
        if self.client is not None or self._refusal is not None:
            return 0
        peer = self.conn.transport
        self.record = replace(peer.record, command=command)
        peer.sessions += 1
        fault = command_fault({"SSH_ORIGINAL_COMMAND": command}, False)
        if fault is not None:
            self._refuse(EX_USAGE, fault)
            return 1
        if peer.factory.server.stopping:
            self._refuse(EX_TEMPFAIL, "the server is stopping")
            return 1
        served = super().request_exec(data)
        if not served:
            self.record.exit = "it could not be served"
            self.write_record()
        elif self._eof:
            super().eofReceived()
        return served

    def _refuse(self, status: int, text: str) -> None:
        assert self.record is not None
        self.record.exit = f"{status} ({text})"

        def tell(response: bytes | None) -> None:
            if not self.localClosed:
                if response is None:
                    line = f"lp-serve-ssh: {text}\n".encode()
                    self.writeExtended(EXTENDED_DATA_STDERR, line)
                else:
                    self.write(response)
                number = struct.pack(">L", status)
                self.conn.sendRequest(self, b"exit-status", number)
                self.loseConnection()
            self.write_record()

        # It calls `tell` after the answer to the request itself.
        reactor = self.conn.transport.factory.server.reactor
        self._refusal = Refusal(reactor, text, tell)
        if status != EX_TEMPFAIL or self._eof:
            self._refusal.end()

    def requestReceived(self, requestType: bytes, data: bytes) -> Any:
        """Handle "exec" and OpenSSH's "eow"; refuse other requests."""
        if requestType == b"exec":
            return self.request_exec(data)
        if requestType == b"eow@openssh.com":
            self._read_no_more()
            return 1
        if requestType in (b"shell", b"subsystem"):
            self.conn.transport.record.exit = f"{requestType.decode()} refused"
        return 0

    def write_record(self) -> None:
        """Log the session at its end."""
        if self.record is not None:
            self.record.end = time.time()
            if self.conn.transport.cut:
                self.record.exit += f" ({self.conn.transport.cut})"
            log.info("%s", self.record.line())
            self.conn.transport.factory.server.session_over(self)
            self.record = None

    # -- from the client to the worker -----------------------------------------

    def dataReceived(self, data: bytes) -> None:
        """Pass data from the client on to the worker."""
        if self._refusal is not None:
            self._refusal.receive(data)
        elif self.record is not None:
            self.record.received += len(data)
            super().dataReceived(data)

    def eofReceived(self) -> None:
        """Note the end of file of the client; it may come before the command."""
        self._eof = True
        if self._refusal is not None:
            self._refusal.end()
        super().eofReceived()

    def closed(self) -> None:
        """The session is over, or the connection."""
        if self._refusal is not None:
            self._refusal.end()
        super().closed()

    def extReceived(self, dataType: int, data: bytes) -> None:
        """Ignore extended data, which clients do not send."""

    def pauseProducing(self) -> None:
        """Stop enlarging the client's window, because the worker is slow to read."""
        self.full = True

    def resumeProducing(self) -> None:
        """Enlarge the client's window again."""
        self.full = False
        missing = self.localWindowSize - self.localWindowLeft
        if missing > self.localWindowSize // 2 and not self.localClosed:
            self.conn.adjustWindow(self, missing)

    def stopProducing(self) -> None:
        """Let the client go on, whose data is dropped: the worker reads no more."""
        self.resumeProducing()

    # -- from the worker to the client -----------------------------------------

    def write(self, data: bytes) -> None:
        """Pass output of the worker on to the client."""
        if not self._receiving_stopped:
            super().write(data)

    def writeExtended(self, dataType: int, data: bytes) -> None:
        """Pass errors of the worker on to the client."""
        if not self._receiving_stopped:
            super().writeExtended(dataType, data)

    def _read_no_more(self) -> None:
        """Close the worker's output: the client's is closed.

        See "eow@openssh.com" in OpenSSH's PROTOCOL, section 2.1.
        """
        self._drop()
        if self.client is not None and self.client.transport is not None:
            self.client.transport.closeStdout()
            self.update()

    def _drop(self) -> None:
        self._receiving_stopped, self.buf, self.extBuf = True, b"", []

    def closeReceived(self) -> None:
        """The client has closed the session: drop further output."""
        self._drop()
        super().closeReceived()

    def stopWriting(self) -> None:
        """Pause the worker: the client's window is full."""
        self._window_open = False
        self.update()

    def startWriting(self) -> None:
        """Resume the worker: there is room in the window."""
        self._window_open = True
        self._stuck = 0
        self.update()

    def end_if_stuck(self) -> None:
        """Close the session if the client has stopped reading.

        OpenSSH's client sends "eow" to OpenSSH's server only.
        """
        if self._eof and not self._window_open:
            self._stuck += 1
            if self._stuck > MAX_UNANSWERED:
                self._drop()
                self.loseConnection()

    def addWindowBytes(self, data: int) -> None:
        """Enlarge the window by *data* bytes, and send waiting data."""
        super().addWindowBytes(data)
        if self.ended:
            self.conn.sendEOF(self)

    def update(self) -> None:
        """Pause or resume the worker's output, as the client has room."""
        if self.client is None or self.client.transport is None:
            return
        if self._receiving_stopped or (
            self._window_open and not self.conn.transport.full
        ):
            self.client.transport.resumeProducing()
        else:
            self.client.transport.pauseProducing()


@implementer(ISession)
class Execution:
    """Connects a session to a worker."""

    def __init__(self, avatar: Any):
        self._avatar = avatar
        self._transport: WorkerTransport | None = None

    def execCommand(self, proto: Any, command: bytes) -> None:
        """Have a worker serve the session.

        :param proto: the process protocol of the session.
        """
        session = proto.session
        server = session.conn.transport.factory.server
        environ = self._environment(session.conn.transport, command)
        recorder = Recorder(proto, session)
        server.session_begins(session)
        self._transport = server.fork_service.spawnProcess(
            recorder, env=environ, user=self._avatar.login.user
        )
        self._transport.registerProducer(session, True)
        session.update()

    def _environment(self, peer: Any, command: bytes) -> dict[str, str]:
        login = self._avatar.login
        client, local = peer.arrival.peer, peer.arrival.local
        return {
            **os.environ,
            "BRZ_EMAIL": login.user,
            **{
                name: value
                for name, value in login.environment.items()
                if name in peer.factory.server.settings.environment
            },
            # As sshd sets them (ssh(1)).
            "SSH_CLIENT": f"{client.host} {client.port} {local.port}",
            "SSH_CONNECTION": f"{client.host} {client.port} {local.host} {local.port}",
            "SSH_ORIGINAL_COMMAND": os.fsdecode(command),
        }

    def openShell(self, proto: Any) -> None:
        """Raise NotImplementedError: there is no shell."""
        raise NotImplementedError

    def getPty(self, term: Any, windowSize: Any, modes: Any) -> None:
        """Raise NotImplementedError: there is no terminal."""
        raise NotImplementedError

    def windowChanged(self, newWindowSize: Any) -> None:
        """Do nothing: there is no terminal."""

    def eofReceived(self) -> None:
        """Close the worker's input at the client's end of file."""
        if self._transport is not None:
            self._transport.closeStdin()

    def closed(self) -> None:
        """Close the connection to the worker at the end of the session."""
        if self._transport is not None:
            self._transport.loseConnection()


class Recorder(ProcessProtocol):
    """Forwards everything to *proto*, and fills in the `Record`."""

    def __init__(self, proto: Any, session: Session):
        self._proto = proto
        self._session = session
        assert session.record is not None
        self._record = session.record

    def connectionMade(self) -> None:
        self._proto.makeConnection(self.transport)

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        if childFD == 1:
            self._record.sent += len(data)
            if self._record.first_byte is None:
                self._record.first_byte = time.time()
        self._proto.childDataReceived(childFD, data)

    def childConnectionLost(self, childFD: int) -> None:
        self._proto.childConnectionLost(childFD)

    def processExited(self, reason: Failure) -> None:
        record, transport = self._record, self.transport
        value = reason.value
        record.exit = f"signal {value.signal}" if value.signal else str(value.exitCode)
        record.served = "process" if transport.fallback else "worker"
        record.served += f" {transport.pid}"
        # The reactor's clock may differ from `time.time`.
        if transport.started is not None:
            passed = self._session.conn.transport.factory.server.reactor.seconds()
            record.ready = time.time() - (passed - transport.started)
        self._proto.processExited(reason)

    def processEnded(self, reason: Failure) -> None:
        self._proto.processEnded(reason)
        self._session.write_record()
