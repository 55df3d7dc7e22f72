# SPDX-License-Identifier: GPL-2.0-or-later

"""A connection to the SSH server: its packets, its login, and the limits of both."""

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

from .connection import Connection
from .keys import SIGNATURES
from .record import Record

log = logging.getLogger("lpserve")

#: The largest packet of somebody who has not logged in (:rfc:`4253`, section 6.1),
#: and of others (OpenSSH's PACKET_MAX_SIZE), in bytes.
_MAX_FIRST_PACKET = 35000
_MAX_PACKET = 256 << 10
#: Packets with which somebody has to have logged in: OpenSSH takes five, and two for
#: each key that it tries.
_MAX_FIRST_PACKETS = 128
#: Bytes that may wait to be sent, beside those for which there is room, until the
#: client is not listened to any more: what ten sessions may still have to say.
_MAX_OWED = 2 << 20


class Authentication(SSHUserAuthServer):
    """The ``ssh-userauth`` service; the transport looks after time and tries."""

    transport: ServerTransport
    loginTimeout = attemptsBeforeDisconnect = 1 << 30

    def ssh_USERAUTH_REQUEST(self, packet: bytes) -> None:
        """Try to log in; what comes after it waits until that is decided."""
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
        # To ask whether a key would do is no failure.
        if not reason.check(IgnoreAuthentication):
            self.transport.login_failed(kind, account)
            if self.transport.cut:
                # It has been told so, and nothing more.
                raise IgnoreAuthentication
        return reason

    def auth_publickey(self, packet: bytes) -> Any:
        """Have no key parsed that is nobody's.

        Twisted's parser takes private keys and certificates as well, which may take
        seconds, and the names of algorithms go into the log as formats.
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

    :ivar record: what is known of it.
    :ivar full: whether nothing more should be written for now.
    :ivar sessions: how many there have been.
    :ivar cut: why it was cut, if it was.
    :ivar tries: how often it has tried to log in.
    :ivar fault: what it has done wrong if it does not log in: one of
        `loginrules.REASONS`.
    """

    #: An `server.Factory`.
    factory: Any
    ourVersionString = b"SSH-2.0-lpserve"
    # What it inflates has no limit, and needs no login.
    supportedCompressions = [b"none"]
    # As sshd has them, without those that have become weak.
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
        address = self.transport.getPeer()
        self.record = Record(join_address(address), time.time())
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
        """Acknowledge at once what has come.

        A client that sends two small packets in a row keeps the second back
        until the first is acknowledged, for which TCP takes 40 ms otherwise.
        """
        handle = self.transport.getHandle()
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        if self._connection is not None:
            self._connection.note_activity()
        if self.cut or self.transport.disconnecting:
            return
        try:
            super().dataReceived(data)
        except Exception as fault:
            # Twisted's parsers raise whatever they stumble over.
            self.give_up(f"it sent what cannot be understood: {fault!r}")

    def getPacket(self) -> bytes | None:
        """The next packet, unless it is too large or has to wait."""
        if self.cut or self.transport.disconnecting:
            return None
        if self._held:
            # `release` goes on with it.
            self._listen(False)
            return None
        packet: bytes | None = super().getPacket()
        size = 0 if packet is None else len(packet)
        if packet is None and hasattr(self, "first"):
            # Its beginning is there, and says how long it is.
            size = int.from_bytes(self.first[:4], "big")
        if size > (_MAX_PACKET if self._connection else _MAX_FIRST_PACKET):
            self.give_up(f"it sent a packet of {size} bytes")
            return None
        return packet

    def dispatchMessage(self, messageNum: int, payload: bytes) -> None:
        """Do what a packet says."""
        if self._connection is None:
            self._first_packets += 1
            if self._first_packets > _MAX_FIRST_PACKETS:
                self.give_up("too many packets without a login")
                return
        super().dispatchMessage(messageNum, payload)

    def ssh_SERVICE_REQUEST(self, packet: bytes) -> None:
        """The client wants to log in, once, and not without keys."""
        if not self.isEncrypted("both"):
            self.give_up("it asks for a service without keys")
            return
        if self.service is not None:
            self.give_up("it asks for a service again")
            return
        super().ssh_SERVICE_REQUEST(packet)

    def receiveUnimplemented(self, seqnum: int) -> None:
        """There is nothing that a client would have to know."""

    def sendExtInfo(self, extensions: Any) -> None:
        """Say which signatures of users are verified (:rfc:`8308`, section 3.1).

        Twisted says which ones the host key can make, so that OpenSSH would not
        use a key of another kind.
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
        """It has not logged in as *account* by the method *kind*."""
        if kind != b"none":
            known = self.factory.checker.has_account(account)
            self.fault = "authfail" if known else "invaliduser"
        elif self.tries == 1:
            return  # it only asks which methods there are
        self._failures += 1
        if self._failures >= self.factory.server.settings.max_auth_tries:
            text = "too many authentication failures"
            self.sendDisconnect(DISCONNECT_PROTOCOL_ERROR, text.encode())
            self.cut = self.cut or text

    def hold(self) -> None:
        """Let what comes next wait for `release`."""
        self._held = True

    def release(self) -> None:
        """Go on with what has come meanwhile."""
        self._held = False
        if self._receiving_stopped and not self._lost:
            self._listen(True)
            self.dataReceived(b"")

    def _stop_grace(self) -> None:
        if self._grace is not None and self._grace.active():
            self._grace.cancel()

    def give_up(self, why: str) -> None:
        """Cut the connection."""
        self.cut = self.cut or why
        self.transport.abortConnection()

    def receiveError(self, reasonCode: int, description: bytes) -> None:
        """The client says goodbye, which is no error for the log."""

    def session_closed(self) -> None:
        """A session is over: maybe it was what a stop waits for."""
        if self.factory.server.stopping:
            self.end_if_idle()

    def end_if_idle(self) -> None:
        """Disconnect, unless there is a session."""
        if self._connection is None or not self._connection.channels:
            self.loseConnection()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """The connection is over."""
        self._lost = True
        self._stop_grace()
        super().connectionLost(reason)
        if not self.sessions:
            self.record.end = time.time()
            if self.cut:
                self.record.exit = self.cut
            elif self._connection is None:
                self.record.exit = "not logged in"
            log.info("%s", self.record.line())
        self.factory.lost(self)

    # -- whether there is room for what is to be written -----------------------

    def pauseProducing(self) -> None:
        """The client does not read fast enough."""
        self._socket_full = True
        self._update()

    def resumeProducing(self) -> None:
        """It has read."""
        self._socket_full = False
        self._update()
        if self.transport.disconnecting:
            # A transport that has a producer does not end by itself.
            self.transport.unregisterProducer()

    def stopProducing(self) -> None:
        """The connection is lost."""

    def ssh_KEXINIT(self, packet: bytes) -> Any:
        """The client wants new keys; until they are there, all has to be kept."""
        if self._connection is None and self.sessionID is not None:
            self.give_up("it exchanges keys again without a login")
            return None
        self._exchanging_keys = self._half_expected = True
        self._update()
        return super().ssh_KEXINIT(packet)

    def ssh_KEX_DH_GEX_REQUEST_OLD(self, packet: bytes) -> Any:
        """The client's half of the keys, once, or once more if it has guessed wrong.

        Each takes as long as everything else of a login together.
        """
        if not self._half_expected:
            self.give_up("it sends keys that nobody has asked for")
            return None
        self._half_expected = bool(self.ignoreNextPacket)
        return super().ssh_KEX_DH_GEX_REQUEST_OLD(packet)

    def ssh_NEWKEYS(self, packet: bytes) -> None:
        """They are there."""
        super().ssh_NEWKEYS(packet)
        self._exchanging_keys = False
        self._update()

    def sendPacket(self, messageType: int, payload: bytes) -> None:
        """Send a packet, and listen to no more that wants an answer if many wait."""
        super().sendPacket(messageType, payload)
        if self.full:
            # With its head, padding and checksum, and what keeps it here.
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
        """Read from the client, or do not."""
        if self._receiving_stopped == wanted and not self._lost:
            self._receiving_stopped = not wanted
            if wanted:
                self.transport.resumeProducing()
            else:
                self.transport.pauseProducing()


def join_address(address: Any) -> str:
    """The host and the port of an address of Twisted's, as one word."""
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port}"
