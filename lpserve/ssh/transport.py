# SPDX-License-Identifier: GPL-2.0-or-later

"""A connection to the SSH server: its packets and login, with limits on both."""

from __future__ import annotations

import logging
import socket
import time
from typing import Any

from twisted.conch.error import IgnoreAuthentication
from twisted.conch.ssh.common import getNS
from twisted.conch.ssh.transport import DISCONNECT_PROTOCOL_ERROR, SSHServerTransport
from twisted.conch.ssh.userauth import SSHUserAuthServer
from twisted.cred.error import UnauthorizedLogin
from twisted.internet import defer
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from .arrivals import Arrival
from .connection import Connection
from .keys import SIGNATURES
from .record import Record

log = logging.getLogger("lpserve")

#: The largest packet in bytes before the login (:rfc:`4253`, section 6.1), and after it
#: (OpenSSH's PACKET_MAX_SIZE).
_MAX_FIRST_PACKET = 35000
_MAX_PACKET = 256 << 10
#: The most packets up to the login. OpenSSH sends five, and two for each key that it
#: tries.
_MAX_FIRST_PACKETS = 128
#: Bytes that may be queued while the send buffer is full, before the server stops
#: reading from the client; enough for the output of ten sessions.
_MAX_OWED = 2 << 20


class Authentication(SSHUserAuthServer):
    """The ``ssh-userauth`` service; the transport limits time and attempts."""

    transport: ServerTransport
    loginTimeout = attemptsBeforeDisconnect = 1 << 30

    def ssh_USERAUTH_REQUEST(self, packet: bytes) -> None:
        """Try to log in; further packets wait until that is decided."""
        if getNS(packet, 2)[1] != b"ssh-connection":
            self.transport.give_up("it wants to log in to another service")
            return
        self.transport.hold()
        tried = super().ssh_USERAUTH_REQUEST(packet)
        assert tried is not None
        tried.addBoth(lambda ignored: self.transport.release())

    def tryAuth(self, kind: bytes, user: bytes, data: bytes) -> Any:
        """Try to log in."""
        account = self.transport.record.user = user.decode("utf-8", "replace")
        self.transport.tries += 1
        tried = super().tryAuth(kind, user, data)
        return tried.addErrback(self._failed, kind, account)

    def _failed(self, reason: Failure, kind: bytes, account: str) -> Failure:
        # A query whether a key is acceptable is not a failure.
        if not reason.check(IgnoreAuthentication):
            self.transport.login_failed(kind, account)
            if self.transport.cut:
                # The client has been sent a disconnect message.
                raise IgnoreAuthentication
        return reason

    def auth_publickey(self, packet: bytes) -> Any:
        """Refuse unknown keys before Twisted parses them.

        Twisted's parser also accepts private keys and certificates, which may take
        seconds. And Twisted uses the names of algorithms as format strings for its log.
        """
        algorithm, blob, _ = getNS(packet[1:], 2)

        def found(key: Any) -> Any:
            if key is None or algorithm not in SIGNATURES:
                raise UnauthorizedLogin("no such account or key")
            return super(Authentication, self).auth_publickey(packet)

        checker = self.transport.factory.checker
        return defer.maybeDeferred(checker.find, self.user, blob).addCallback(found)


@implementer(IPushProducer)
class ServerTransport(SSHServerTransport):
    """A connection of a client.

    :ivar arrival: who the client is; set before the connection is made.
    :ivar number: of the connection, for the owner of the server; set like it.
    :ivar record: its data for the log.
    :ivar full: whether the sessions should pause their output.
    :ivar sessions: how many sessions it has had.
    :ivar cut: why the server has aborted it; "" if it has not.
    :ivar tries: how often the client has tried to log in.
    :ivar fault: the reason for a penalty if it ends without a login: one of
        `loginrules.REASONS`; "" for a proxy that has only looked whether we are here.
    """

    #: A `server.Factory`.
    factory: Any
    arrival: Arrival
    number: int
    ourVersionString = b"SSH-2.0-lpserve"
    # Compression is off: Twisted inflates without a limit, even before a login.
    supportedCompressions = [b"none"]
    # The algorithms of sshd, without weak ones.
    supportedCiphers = [
        name
        for name in SSHServerTransport.supportedCiphers
        if name.startswith(b"aes") and name.endswith(b"-ctr")
    ]
    supportedMACs = [
        name
        for name in SSHServerTransport.supportedMACs
        if name.startswith(b"hmac-sha2-")
    ]
    supportedKeyExchanges = [
        name
        for name in SSHServerTransport.supportedKeyExchanges
        if not name.startswith(b"diffie-hellman-")
    ]
    full = False
    sessions = tries = 0
    cut = ""
    fault = "noauth"
    _connection: Connection | None = None
    _grace: Any = None
    _socket_full = _exchanging_keys = _half_expected = False
    _held = _receiving_stopped = _lost = False
    _failures = _first_packets = _owed = 0

    def connectionMade(self) -> None:
        """A client has connected."""
        server = self.factory.server
        self.record = Record(self.arrival)
        self.transport.setTcpNoDelay(True)
        self.transport.setTcpKeepAlive(True)
        self.transport.registerProducer(self, True)
        grace = server.settings.login_grace_time
        if grace:
            self._grace = server.reactor.callLater(grace, self._too_slow, grace)
        super().connectionMade()

    def _too_slow(self, grace: float) -> None:
        self.fault = "grace_exceeded"
        self.give_up(f"no login within {grace:g} seconds")

    def dataReceived(self, data: bytes) -> None:
        """Acknowledge the data at once, and handle it.

        A client that sends two small packets in a row holds the second back until
        the first is acknowledged (Nagle's algorithm). TCP delays that by 40 ms.
        """
        handle = self.transport.getHandle()
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        if self._connection is not None:
            self._connection.note_activity()
        if self.cut or self.transport.disconnecting:
            return
        if not self.gotVersion and not _begins_version(self.buf + data):
            # Twisted would ignore lines before the version: a PROXY header, say.
            self.give_up("it sent no version of SSH")
            return
        try:
            super().dataReceived(data)
        except Exception as fault:
            # Twisted's parsers raise various exceptions.
            self.give_up(f"it sent what cannot be understood: {fault!r}")

    def getPacket(self) -> bytes | None:
        """The next packet, unless it is too large or has to wait."""
        if self.cut or self.transport.disconnecting:
            return None
        if self._held:
            # `release` continues.
            self._listen(False)
            return None
        packet: bytes | None = super().getPacket()
        size = 0 if packet is None else len(packet)
        if packet is None and hasattr(self, "first"):
            # Its first block has arrived, which begins with its length.
            size = int.from_bytes(self.first[:4], "big")
        if size > (_MAX_PACKET if self._connection else _MAX_FIRST_PACKET):
            self.give_up(f"it sent a packet of {size} bytes")
            return None
        return packet

    def dispatchMessage(self, messageNum: int, payload: bytes) -> None:
        """Handle a packet."""
        if self._connection is None:
            self._first_packets += 1
            if self._first_packets > _MAX_FIRST_PACKETS:
                self.give_up("too many packets without a login")
                return
        super().dispatchMessage(messageNum, payload)

    def ssh_SERVICE_REQUEST(self, packet: bytes) -> None:
        """Start the login; refused without encryption, or for the second time."""
        if not self.isEncrypted("both"):
            self.give_up("it asks for a service without keys")
            return
        if self.service is not None:
            self.give_up("it asks for a service again")
            return
        super().ssh_SERVICE_REQUEST(packet)

    def receiveUnimplemented(self, seqnum: int) -> None:
        """Ignore it: the server sends no optional packets."""

    def sendExtInfo(self, extensions: Any) -> None:
        """Send the signature algorithms that are accepted (:rfc:`8308`, section 3.1).

        Twisted would send those of the host key. OpenSSH would then not offer keys of
        other types.
        """
        super().sendExtInfo([(b"server-sig-algs", b",".join(SIGNATURES))])

    def authenticated(self, connection: Connection) -> None:
        """The client has logged in."""
        self._connection = connection
        self._stop_grace()
        login = self.avatar.login
        self.record.authenticated = time.time()
        self.record.user, self.record.key = login.user, login.fingerprint
        self.factory.logged_in(self)

    def login_failed(self, kind: bytes, account: str) -> None:
        """A login as *account* by the method *kind* has failed."""
        if kind != b"none":
            known = self.factory.checker.has_account(account)
            self.fault = "authfail" if known else "invaliduser"
        elif self.tries == 1:
            return  # the client asks for the list of methods
        self._failures += 1
        if self._failures >= self.factory.server.settings.max_auth_tries:
            text = "too many authentication failures"
            self.sendDisconnect(DISCONNECT_PROTOCOL_ERROR, text.encode())
            self.cut = self.cut or text

    def hold(self) -> None:
        """Let further packets wait for `release`."""
        self._held = True

    def release(self) -> None:
        """Handle the packets that have waited."""
        self._held = False
        if self._receiving_stopped and not self._lost:
            self._listen(True)
            self.dataReceived(b"")

    def _stop_grace(self) -> None:
        if self._grace is not None and self._grace.active():
            self._grace.cancel()

    def give_up(self, why: str) -> None:
        """Abort the connection; *why* goes to the log."""
        self.cut = self.cut or why
        self.transport.abortConnection()

    def receiveError(self, reasonCode: int, description: bytes) -> None:
        """Do not log a disconnect message of the client as an error."""

    def session_closed(self) -> None:
        """A session has ended: a stop may have waited for it."""
        if self.factory.server.stopping:
            self.end_if_idle()

    def end_if_idle(self) -> None:
        """Disconnect if there is no session."""
        if self._connection is None or not self._connection.channels:
            self.loseConnection()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """The connection is over."""
        self._lost = True
        self._stop_grace()
        super().connectionLost(reason)
        if self.arrival.is_probe and not self.gotVersion:
            self.fault = ""
        elif not self.sessions:
            self.record.end = time.time()
            if self.cut:
                self.record.exit = self.cut
            elif self._connection is None:
                self.record.exit = "not logged in"
            log.info("%s", self.record.line())
        self.factory.lost(self)

    # -- flow control ----------------------------------------------------------

    def pauseProducing(self) -> None:
        """The send buffer is full."""
        self._socket_full = True
        self._update()

    def resumeProducing(self) -> None:
        """The send buffer has room again."""
        self._socket_full = False
        self._update()
        if self.transport.disconnecting:
            # Twisted does not close a transport that has a producer.
            self.transport.unregisterProducer()

    def stopProducing(self) -> None:
        """The connection is lost."""

    def ssh_KEXINIT(self, packet: bytes) -> Any:
        """Begin a key exchange, during which all output is queued."""
        if self._connection is None and self.sessionID is not None:
            self.give_up("it exchanges keys again without a login")
            return None
        self._exchanging_keys = self._half_expected = True
        self._update()
        return super().ssh_KEXINIT(packet)

    def ssh_KEX_DH_GEX_REQUEST_OLD(self, packet: bytes) -> Any:
        """Handle the client's half of a key exchange, once; twice after a wrong guess.

        Each costs as much as the rest of the login.
        """
        if not self._half_expected:
            self.give_up("it sends keys that nobody has asked for")
            return None
        self._half_expected = bool(self.ignoreNextPacket)
        return super().ssh_KEX_DH_GEX_REQUEST_OLD(packet)

    def ssh_NEWKEYS(self, packet: bytes) -> None:
        """End the key exchange."""
        super().ssh_NEWKEYS(packet)
        self._exchanging_keys = False
        self._update()

    def sendPacket(self, messageType: int, payload: bytes) -> None:
        """Send a packet; stop reading from the client if too many are queued."""
        super().sendPacket(messageType, payload)
        if self.full:
            # Plus its header, padding and MAC, and the memory of the queue.
            self._owed += len(payload) + 100
            if self._owed > _MAX_OWED and self._exchanging_keys:
                self.give_up("it does not come to an end of a key exchange")
            elif self._owed > _MAX_OWED:
                self._listen(False)

    def _update(self) -> None:
        self.full = self._socket_full or self._exchanging_keys
        if not self.full:
            self._owed = 0
            if not self._held:
                self._listen(True)
        if self._connection is not None:
            self._connection.update()

    def _listen(self, wanted: bool) -> None:
        """Resume or pause reading from the client."""
        if self._receiving_stopped == wanted and not self._lost:
            self._receiving_stopped = not wanted
            if wanted:
                self.transport.resumeProducing()
            else:
                self.transport.pauseProducing()


def _begins_version(data: bytes) -> bool:
    """Whether *data* may begin with a version, which is a client's first line.

    Only servers may send other lines before it (:rfc:`4253`, section 4.2).
    """
    return data[:4] == b"SSH-"[: len(data)]
