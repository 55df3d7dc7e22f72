# SPDX-License-Identifier: GPL-2.0-or-later

"""The ``ssh-connection`` service of the SSH server: sessions and keepalives."""

from __future__ import annotations

import struct
from typing import Any

from twisted.conch.avatar import ConchUser
from twisted.conch.interfaces import ISession
from twisted.conch.ssh.common import NS, getNS
from twisted.conch.ssh.connection import (
    MSG_CHANNEL_OPEN_FAILURE,
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    OPEN_CONNECT_FAILED,
    OPEN_RESOURCE_SHORTAGE,
    SSHConnection,
)
from twisted.python.components import registerAdapter

from .keys import Login
from .session import MAX_UNANSWERED, Execution, Session

#: The least maximum packet size of a client: with 0, Twisted would loop endlessly.
_MIN_PACKET = 1024
#: Sessions that one connection may have open at once, as sshd's MaxSessions.
_MAX_SESSIONS = 10


class User(ConchUser):
    """A user who has logged in.

    :ivar login: the name of the user, and the key.
    """

    def __init__(self, login: Login):
        super().__init__()
        self.login = login
        self.channelLookup[b"session"] = Session


class Connection(SSHConnection):
    """The ``ssh-connection`` service, which allows sessions only."""

    #: A `transport.ServerTransport`.
    transport: Any
    _unanswered = 0
    _keepalive: Any = None

    def serviceStarted(self) -> None:
        """The client has logged in."""
        super().serviceStarted()
        self.transport.authenticated(self)
        self._wait_for_keepalive()

    def serviceStopped(self) -> None:
        """The connection is over."""
        if self._keepalive is not None:
            self._keepalive.cancel()
            self._keepalive = None
        super().serviceStopped()

    def note_activity(self) -> None:
        """Reset the count of unanswered keepalives: the client has sent data."""
        self._unanswered = 0

    def _wait_for_keepalive(self) -> None:
        server = self.transport.factory.server
        if server.settings.keepalive_interval:
            interval = server.settings.keepalive_interval
            self._keepalive = server.reactor.callLater(interval, self._keep_alive)

    def _keep_alive(self) -> None:
        self._keepalive = None
        if self._unanswered >= MAX_UNANSWERED:
            self.transport.give_up("the client does not answer")
            return
        self._unanswered += 1
        for channel in list(self.channels.values()):
            channel.end_if_stuck()

        # As OpenSSH's sshd asks (ClientAliveInterval).
        asked = self.sendGlobalRequest(b"keepalive@openssh.com", b"", wantReply=True)
        asked.addErrback(lambda failure: None)  # a refusal is an answer too
        self._wait_for_keepalive()

    def ssh_CHANNEL_OPEN(self, packet: bytes) -> None:
        """Open a session, up to a limit; refuse forwarding."""
        kind, rest = getNS(packet)
        sender, _, largest = struct.unpack(">3L", rest[:12])
        if kind != b"session":
            reason, text = OPEN_ADMINISTRATIVELY_PROHIBITED, b"only sessions"
        elif len(self.channels) >= _MAX_SESSIONS:
            reason, text = OPEN_RESOURCE_SHORTAGE, b"too many sessions"
        elif largest < _MIN_PACKET:
            reason, text = OPEN_CONNECT_FAILED, b"packets too small"
        else:
            super().ssh_CHANNEL_OPEN(packet)
            return
        refusal = struct.pack(">2L", sender, reason) + NS(text) + NS(b"")
        self.transport.sendPacket(MSG_CHANNEL_OPEN_FAILURE, refusal)

    def gotGlobalRequest(self, requestType: bytes, data: bytes) -> int:
        """Refuse all global requests."""
        return 0

    def adjustWindow(self, channel: Any, bytesToAdd: int) -> None:
        """Enlarge the client's window, unless the worker is slow to read."""
        if not channel.full:
            super().adjustWindow(channel, bytesToAdd)

    def sendEOF(self, channel: Any) -> None:
        """Send the end of file after all data that waits for the client's window.

        Twisted's session would send it before that data, which the client would drop.
        """
        channel.ended = bool(channel.buf or channel.extBuf)
        if not channel.ended:
            super().sendEOF(channel)

    def channelClosed(self, channel: Any) -> None:
        """A session is over."""
        super().channelClosed(channel)
        self.transport.session_closed()

    def update(self) -> None:
        """Resume or pause all sessions, as the transport has room."""
        for channel in list(self.channels.values()):
            channel.update()


registerAdapter(Execution, User, ISession)
