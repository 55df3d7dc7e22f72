# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""The SSH server: accepts, lets people log in, ends gracefully."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from twisted.conch.interfaces import IConchUser
from twisted.conch.ssh.factory import SSHFactory
from twisted.conch.ssh.keys import Key
from twisted.conch.ssh.transport import SSHServerTransport
from twisted.conch.ssh.userauth import SSHUserAuthServer
from twisted.cred.portal import IRealm, Portal
from twisted.internet import endpoints
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from . import system
from .authorizedkeys import KeyDirectory
from .conch import ForkService
from .errors import ConfigurationError
from .options import Settings
from .sshconnection import Connection, User
from .sshkeys import SIGNATURES, KeyChecker, Login, host_key
from .sshrecord import Record
from .sshsession import Session

log = logging.getLogger("lpserve")

#: Seconds that workers have to end when their connections have been cut.
_AFTER_CUT = 5.0


class Authentication(SSHUserAuthServer):
    """The ``ssh-userauth`` service; the transport looks after the time."""

    transport: Peer
    loginTimeout = 1 << 30

    def tryAuth(self, kind: bytes, user: bytes, data: bytes) -> Any:
        """Try to log in."""
        self.transport.record.user = user.decode("utf-8", "replace")
        return super().tryAuth(kind, user, data)


@implementer(IPushProducer)
class Peer(SSHServerTransport):
    """A connection of a client.

    :ivar record: what is known of it.
    :ivar full: whether nothing more should be written for now.
    :ivar sessions: how many there have been.
    :ivar cut: why it was cut, if it was.
    """

    factory: Factory
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
    sessions = 0
    cut = ""
    _connection: Connection | None = None
    _grace: Any = None
    _socket_full = _exchanging_keys = False

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
            self._grace = server.reactor.callLater(
                grace, self.give_up, f"no login within {grace:g} seconds"
            )
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        """Acknowledge at once what has come.

        A client that sends two small packets in a row keeps the second back
        until the first is acknowledged, for which TCP takes 40 ms otherwise.
        """
        handle = self.transport.getHandle()
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        if self._connection is not None:
            self._connection.heard()
        if self.cut or self.transport.disconnecting:
            return
        try:
            super().dataReceived(data)
        except Exception as fault:
            # Twisted's parsers raise whatever they stumble over.
            self.give_up(f"it sent what cannot be understood: {fault!r}")

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
        self.factory.unauthenticated.discard(self)

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
        self._exchanging_keys = True
        self._update()
        return super().ssh_KEXINIT(packet)

    def ssh_NEWKEYS(self, packet: bytes) -> None:
        """They are there."""
        super().ssh_NEWKEYS(packet)
        self._exchanging_keys = False
        self._update()

    def _update(self) -> None:
        self.full = self._socket_full or self._exchanging_keys
        if self._connection is not None:
            self._connection.update()


class Factory(SSHFactory):
    """Makes a `Peer` of each connection, unless too many have not logged in.

    :ivar peers: those that are connected.
    :ivar unauthenticated: those of them that have not logged in.
    """

    protocol = Peer
    noisy = False
    services = {b"ssh-userauth": Authentication, b"ssh-connection": Connection}

    def __init__(self, server: Server, key: Key, portal: Portal):
        self.server = server
        self.portal = portal
        self.publicKeys = {key.sshType(): key.public()}
        self.privateKeys = {key.sshType(): key}
        self.peers: set[Peer] = set()
        self.unauthenticated: set[Peer] = set()

    def buildProtocol(self, address: Any) -> Peer | None:
        """A peer for the client at *address*, or None: not now."""
        most = self.server.settings.max_unauthenticated
        if most and len(self.unauthenticated) >= most:
            log.warning("%s: too many that have not logged in", address.host)
            return None
        peer: Peer = super().buildProtocol(address)
        self.peers.add(peer)
        self.unauthenticated.add(peer)
        return peer

    def lost(self, peer: Peer) -> None:
        """A connection is over."""
        self.peers.discard(peer)
        self.unauthenticated.discard(peer)
        self.server.end_if_over()


@implementer(IRealm)
class Realm:
    """Who has logged in becomes a `User`."""

    def requestAvatar(self, avatarId: Login, mind: Any, *interfaces: Any) -> Any:
        """The user, for the one interface there is."""
        return IConchUser, User(avatarId), lambda: None


class Server:
    """The server, from the start to the end of the process.

    :param reactor: that of the process; it is run, once.
    :param read: returns the settings, afresh each time.
    :param brz: the words that run Breezy.
    :param runtime_dir: the directory of the fork service.
    """

    def __init__(
        self,
        reactor: Any,
        read: Callable[[], Settings],
        brz: list[str],
        runtime_dir: str,
    ):
        self.reactor = reactor
        self._read = read
        self._brz = brz
        self._runtime_dir = runtime_dir
        self.stopping = self._ended = False
        self._sessions: set[Session] = set()
        self._port: Any = None
        self._configure(read())

    def _configure(self, settings: Settings) -> None:
        self.settings = settings
        self.fork_service = ForkService(
            self.reactor,
            self._runtime_dir,
            settings.environment,
            settings.autostart,
            settings.connect_timeout,
            self._brz,
        )

    def run(self, listen: tuple[str, int], key_file: str, keys: KeyDirectory) -> None:
        """Serve until told to stop.

        :param listen: an address, not a name, and a port; 0 is any that is free.
        :raises ConfigurationError: if that cannot be begun.
        """
        keys.check()
        portal = Portal(Realm(), [KeyChecker(keys)])
        self.factory = Factory(self, host_key(key_file), portal)
        host, port = listen
        kind = endpoints.TCP6ServerEndpoint if ":" in host else None
        kind = kind or endpoints.TCP4ServerEndpoint
        refused: list[Failure] = []
        made = kind(self.reactor, port, backlog=1024, interface=host)
        made.listen(self.factory).addCallbacks(self._listening, refused.append)
        if refused:
            fault = getattr(refused[0].value, "socketError", refused[0].value)
            reason = getattr(fault, "strerror", None) or str(fault)
            raise ConfigurationError(f"cannot listen on {host}:{port}: {reason}")
        self.reactor.callWhenRunning(self._running)
        self.reactor.run()

    def _listening(self, port: Any) -> None:
        self._port = port

    def _running(self) -> None:
        def wake(number: int, frame: Any) -> None:
            self.reactor.callFromThread(self._told, number)

        for number in (*system.stopping_signals(), signal.SIGHUP):
            signal.signal(number, wake)
        system.disable_debugger()
        system.keep_what_is_loaded()
        system.set_title("lp-serve-ssh")
        log.info("Listening on %s", join_address(self._port.getHost()))
        system.notify("READY=1", f"MAINPID={os.getpid()}")

    # -- the end ---------------------------------------------------------------

    def _told(self, number: int) -> None:
        """A signal has come."""
        if number == signal.SIGHUP:
            try:
                self._configure(self._read())
                log.info("the configuration has been read afresh")
            except ConfigurationError as error:
                log.error("the configuration stays as it was: %s", error)
        elif self.stopping:
            self._cut("told twice to stop")
        else:
            self._stop()

    def _stop(self) -> None:
        """Accept no more, and let the sessions finish."""
        self.stopping = True
        system.notify("STOPPING=1")
        count = len(self._sessions)
        log.info("stopping; sessions that may finish: %d", count)
        self._port.stopListening()
        timeout = self.settings.shutdown_timeout
        self.reactor.callLater(timeout, self._cut, f"not over after {timeout:g} s")
        for peer in list(self.factory.peers):
            peer.end_if_idle()
        self.end_if_over()

    def _cut(self, why: str) -> None:
        """Let nothing finish any more."""
        for peer in list(self.factory.peers):
            peer.give_up(why)
        self.reactor.callLater(_AFTER_CUT, self._end)

    def session_begins(self, session: Session) -> None:
        """There is a worker, or will be, that has to be waited for."""
        self._sessions.add(session)

    def session_over(self, session: Session) -> None:
        """That worker has ended."""
        self._sessions.discard(session)
        self.end_if_over()

    def end_if_over(self) -> None:
        """End when a stop has nothing more to wait for."""
        if self.stopping and not self.factory.peers and not self._sessions:
            self._end()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self.reactor.stop()


def join_address(address: Any) -> str:
    """The host and the port of an address of Twisted's, as one word."""
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port}"
