# SPDX-License-Identifier: GPL-2.0-or-later

"""The SSH server: serves connections that were admitted, stops gracefully."""

from __future__ import annotations

import socket
from typing import Any, Protocol

from twisted.conch.interfaces import IConchUser
from twisted.conch.ssh.factory import SSHFactory
from twisted.conch.ssh.keys import Key
from twisted.cred.portal import IRealm, Portal
from zope.interface import implementer

from ..conch.transport import ForkService
from ..settings import Settings
from .arrivals import Arrival
from .connection import Connection, User
from .keydirectory import KeyDirectory
from .keys import KeyChecker, Login
from .session import Session
from .transport import Authentication, ServerTransport

#: Seconds that workers have to end after their connections were aborted.
AFTER_CUT = 5.0


class Owner(Protocol):
    """Is told what becomes of connections."""

    def ready(self) -> None:
        """Connections can be served."""

    def logged_in(self, number: int) -> None:
        """A client has logged in."""

    def lost(self, number: int, fault: str) -> None:
        """A connection is over; *fault* as for `gate.Gate.lost`."""

    def sessions_changed(self, count: int) -> None:
        """There are *count* sessions now."""

    def over(self) -> None:
        """All has ended after `stop` or `finish`; may be called again."""


class Factory(SSHFactory):
    """Creates a `ServerTransport` for each connection.

    :ivar checker: verifies logins.
    """

    protocol = ServerTransport
    noisy = False
    services = {b"ssh-userauth": Authentication, b"ssh-connection": Connection}

    def __init__(self, server: Server, key: Key, checker: KeyChecker):
        self.server = server
        self.checker = checker
        self.portal = Portal(Realm(), [checker])
        self.publicKeys = {key.sshType(): key.public()}
        self.privateKeys = {key.sshType(): key}

    def logged_in(self, peer: ServerTransport) -> None:
        """A client has logged in."""
        self.server.owner.logged_in(peer.number)

    def lost(self, peer: ServerTransport) -> None:
        """A connection is over."""
        self.server.lost(peer)


@implementer(IRealm)
class Realm:
    """Creates a `User` for each login."""

    def requestAvatar(self, avatarId: Login, mind: Any, *interfaces: Any) -> Any:
        """The `User`, as an IConchUser."""
        return IConchUser, User(avatarId), lambda: None


class _Adoption:
    """What the reactor asks for the protocol of one connection."""

    def __init__(self, factory: Factory, arrival: Arrival, number: int):
        self._factory, self._arrival, self._number = factory, arrival, number
        self.made: ServerTransport | None = None

    def buildProtocol(self, address: Any) -> ServerTransport:
        """The transport for the connection."""
        self.made = self._factory.buildProtocol(address)
        self.made.arrival, self.made.number = self._arrival, self._number
        self._factory.server.peers.add(self.made)
        return self.made


class Server:
    """Serves connections; there is one in the process.

    :param reactor: of the process.
    :param brz: the command that runs Breezy, a list of words.
    :param runtime_dir: the directory of the fork service.
    :param key: the host key.
    :param keys: of the users.
    :ivar owner: is told what becomes of connections; to be set before `start`.
    :ivar peers: the open connections.
    """

    owner: Owner

    def __init__(
        self,
        reactor: Any,
        settings: Settings,
        brz: list[str],
        runtime_dir: str,
        key: Key,
        keys: KeyDirectory,
    ):
        self.reactor = reactor
        self._brz = brz
        self._runtime_dir = runtime_dir
        self.stopping = self._finishing = False
        self.peers: set[ServerTransport] = set()
        self._sessions: set[Session] = set()
        self._keys = keys
        self.factory = Factory(self, key, KeyChecker(keys, reactor))
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Use these settings from now on."""
        self.settings = settings
        self.fork_service = ForkService(
            self.reactor,
            self._runtime_dir,
            settings.environment,
            settings.autostart,
            settings.connect_timeout,
            self._brz,
            settings.fallback,
        )

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self.peers)

    @property
    def sessions(self) -> int:
        """How many sessions there are."""
        return len(self._sessions)

    def start(self) -> None:
        """Get ready."""
        for _ in self._keys.renew():
            pass  # read all files before a client has to wait for it
        self.factory.doStart()
        self.owner.ready()

    def serve(self, made: socket.socket, arrival: Arrival, number: int) -> None:
        """Serve a connection.

        :param made: its socket, which does not block; it is closed.
        :param number: of the connection, for the owner.
        """
        adoption = _Adoption(self.factory, arrival, number)
        with made:
            if self.stopping:
                self.owner.lost(number, "")
                return
            try:
                adopt = self.reactor.adoptStreamConnection
                adopt(made.fileno(), made.family, adoption)
            except OSError:
                # The client has gone, or there are no descriptors.
                if adoption.made is None:
                    self.owner.lost(number, "noauth")

    def lost(self, peer: ServerTransport) -> None:
        """A connection is over."""
        self.peers.discard(peer)
        self.owner.lost(peer.number, "" if self.stopping else peer.fault)
        self.end_if_over()

    # -- the end ---------------------------------------------------------------

    def finish(self) -> None:
        """Let the connections go on; when none is left, the owner is told."""
        self._finishing = True
        self.end_if_over()

    def stop(self) -> None:
        """Let the sessions finish; then the owner is told that it is over."""
        self.stopping = True
        for peer in list(self.peers):
            peer.end_if_idle()
        self.end_if_over()

    def cut(self, why: str) -> None:
        """Abort all connections; the owner is told when it is over."""
        for peer in list(self.peers):
            peer.give_up(why)
        self.reactor.callLater(AFTER_CUT, self.owner.over)

    def session_begins(self, session: Session) -> None:
        """Count a session, for whose worker a stop waits."""
        self._sessions.add(session)
        self.owner.sessions_changed(len(self._sessions))

    def session_over(self, session: Session) -> None:
        """The worker of *session* has ended."""
        if session in self._sessions:
            self._sessions.remove(session)
            self.owner.sessions_changed(len(self._sessions))
        self.end_if_over()

    def end_if_over(self) -> None:
        """Tell the owner if no connection is left, and none is to come."""
        ending = self.stopping or self._finishing
        if ending and not self.peers and not self._sessions:
            self.owner.over()
