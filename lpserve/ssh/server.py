# SPDX-License-Identifier: GPL-2.0-or-later

"""The SSH server: accepts connections, logs dropped ones, stops gracefully."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from typing import Any

from twisted.conch.interfaces import IConchUser
from twisted.conch.ssh.factory import SSHFactory
from twisted.conch.ssh.keys import Key
from twisted.cred.portal import IRealm, Portal
from twisted.internet import endpoints
from twisted.python.failure import Failure
from zope.interface import implementer

from .. import system
from ..conch.transport import ForkService
from ..errors import ConfigurationError
from ..loginrules import REASONS
from ..settings import Settings
from ..sshstate import LOGGED_IN, LOGGING_IN, SshState
from ..systemd import Notifier
from .connection import Connection, User
from .figures import Figures, StateFile
from .keydirectory import KeyDirectory
from .keys import KeyChecker, Login, host_key
from .limits import Limits
from .session import Session
from .transport import Authentication, ServerTransport, join_address

log = logging.getLogger("lpserve")

#: Seconds that workers have to end after their connections were aborted.
_AFTER_CUT = 5.0
#: Seconds between two log lines about dropped connections.
_DROPS_INTERVAL = 10.0


class Factory(SSHFactory):
    """Creates a `ServerTransport` for each connection that the limits admit.

    :ivar checker: verifies logins.
    :ivar limits: decides which connections are admitted.
    :ivar figures: counts logins, and connections that were not admitted.
    :ivar peers: the open connections.
    """

    protocol = ServerTransport
    noisy = False
    services = {b"ssh-userauth": Authentication, b"ssh-connection": Connection}

    def __init__(self, server: Server, key: Key, checker: KeyChecker):
        self.server = server
        self.checker = checker
        self.portal = Portal(Realm(), [checker])
        self.limits = Limits(server.settings.login_rules)
        self.figures = Figures()
        self.publicKeys = {key.sshType(): key.public()}
        self.privateKeys = {key.sshType(): key}
        self.peers: set[ServerTransport] = set()
        #: The connections that have not logged in, and the source of each.
        self._sources: dict[ServerTransport, bytes] = {}
        self._dropped = self._unlogged = 0
        self._telling: Any = None

    def buildProtocol(self, address: Any) -> ServerTransport | None:
        """The transport for a client at *address*; None drops the connection."""
        reason = self.limits.refusal(address.host, time.monotonic())
        if reason:
            self.figures.dropped(reason)
            self._log_dropped(address, reason)
            return None
        peer: ServerTransport = super().buildProtocol(address)
        self.peers.add(peer)
        self._sources[peer] = self.limits.begin(address.host)
        return peer

    def _log_dropped(self, address: Any, reason: str) -> None:
        """Log the first dropped connection, then their number per interval."""
        self._dropped += 1
        if self._telling is not None:
            self._unlogged += 1
            return
        log.warning(
            "drop connection #%d from %s: %s",
            self._dropped,
            join_address(address),
            reason,
        )
        self._tell_later()

    def _tell_later(self) -> None:
        self._unlogged = 0
        later = self.server.reactor.callLater
        self._telling = later(_DROPS_INTERVAL, self._log_all_dropped)

    def _log_all_dropped(self) -> None:
        self._telling = None
        if self._unlogged:
            log.warning("%d more connections were dropped", self._unlogged)
            self._tell_later()

    def logged_in(self, peer: ServerTransport) -> None:
        """A client has logged in."""
        self.limits.end(self._sources.pop(peer))
        self.figures.logged_in()

    def lost(self, peer: ServerTransport) -> None:
        """A connection is over."""
        self.peers.discard(peer)
        source = self._sources.pop(peer, None)
        if source is not None:
            self.limits.end(source)
            if not self.server.stopping:
                self.figures.not_logged_in(peer.fault)
                self._penalise(peer)
        self.server.end_if_over()

    def _penalise(self, peer: ServerTransport) -> None:
        now = time.monotonic()
        host = peer.transport.getPeer().host
        seconds = self.limits.penalise(host, peer.fault, now)
        if seconds:
            self.figures.penalised(peer.fault)
            reason = REASONS[peer.fault]
            log.warning("%s is refused for %.0f s: %s", host, seconds, reason)


@implementer(IRealm)
class Realm:
    """Creates a `User` for each login."""

    def requestAvatar(self, avatarId: Login, mind: Any, *interfaces: Any) -> Any:
        """The `User`, as an IConchUser."""
        return IConchUser, User(avatarId), lambda: None


class Server:
    """The server; there is one in the process.

    :param reactor: of the process; `run` runs it.
    :param read: reads the settings.
    :param brz: the command that runs Breezy, a list of words.
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
        self._systemd = Notifier(reactor.callLater)
        self._status = self._listen = ""
        self._state_file = StateFile(reactor, runtime_dir, self._state)
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
            settings.fallback,
        )

    def run(self, listen: tuple[str, int], key_file: str, keys: KeyDirectory) -> None:
        """Serve until a signal stops the server.

        :param listen: an IP address and a port; 0 means any free port.
        :param key_file: the path of the host key.
        :raises ConfigurationError: if the server cannot start.
        """
        keys.check()
        checker = KeyChecker(keys, self.reactor)
        self.factory = Factory(self, host_key(key_file), checker)
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
        for _ in keys.renew():
            pass  # read all files before a client has to wait for it
        self.reactor.callWhenRunning(self._running)
        self.reactor.run()

    def _listening(self, port: Any) -> None:
        self._port = port
        self._listen = join_address(port.getHost())

    def _running(self) -> None:
        def wake(number: int, frame: Any) -> None:
            self.reactor.callFromThread(self._handle_signal, number)

        for number in (*system.stopping_signals(), signal.SIGHUP):
            signal.signal(number, wake)
        system.disable_debugger()
        system.keep_what_is_loaded()
        system.set_title("lp-serve-ssh")
        self._state_file.open()
        self._status = f"Listening on {self._listen}"
        log.info("Listening on %s", self._listen)
        self._systemd.ready(self._status)
        self._systemd.watch_us()

    # -- the end ---------------------------------------------------------------

    def _handle_signal(self, number: int) -> None:
        """Reload at SIGHUP; stop at the first other signal, abort at the second."""
        if number == signal.SIGHUP:
            self._reload()
        elif self.stopping:
            self._cut("told twice to stop")
        else:
            self._stop()

    def _reload(self) -> None:
        self._systemd.reloading()
        status = self._status
        try:
            self._configure(self._read())
            self.factory.limits.rules = self.settings.login_rules
            log.info("configuration reloaded")
        except ConfigurationError as error:
            log.error("cannot reload the configuration: %s", error)
            status += f"; the last reload failed: {error}"
        if not self.stopping:
            self._systemd.ready(status)

    def _stop(self) -> None:
        """Stop listening, and let the sessions finish."""
        self.stopping = True
        text = f"stopping; sessions that may finish: {len(self._sessions)}"
        self._systemd.stopping(text)
        log.info("%s", text)
        self._port.stopListening()
        timeout = self.settings.shutdown_timeout
        self.reactor.callLater(timeout, self._cut, f"not over after {timeout:g} s")
        # Another process may listen here now, and count from 0.
        self._state_file.write()
        for peer in list(self.factory.peers):
            peer.end_if_idle()
        self.end_if_over()

    def _cut(self, why: str) -> None:
        """Abort all connections."""
        for peer in list(self.factory.peers):
            peer.give_up(why)
        self.reactor.callLater(_AFTER_CUT, self._end)

    def session_begins(self, session: Session) -> None:
        """Count a session, for whose worker a stop waits."""
        self._sessions.add(session)

    def session_over(self, session: Session) -> None:
        """The worker of *session* has ended."""
        self._sessions.discard(session)
        self.end_if_over()

    def end_if_over(self) -> None:
        """Stop the reactor if the server is stopping and no connection is left."""
        if self.stopping and not self.factory.peers and not self._sessions:
            self._end()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._state_file.close()
            self.reactor.stop()

    def _state(self) -> SshState:
        """What is told of this process."""
        factory = self.factory
        return SshState(
            self._listen,
            factory.figures.started,
            self.stopping,
            {
                LOGGING_IN: factory.limits.count,
                LOGGED_IN: len(factory.peers) - factory.limits.count,
            },
            len(self._sessions),
            dict(factory.figures.logins),
            dict(factory.figures.drops),
            dict(factory.figures.penalties),
        )
