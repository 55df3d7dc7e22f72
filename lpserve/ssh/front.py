# SPDX-License-Identifier: GPL-2.0-or-later

"""The front: the process that listens, and that signals and systemd speak to.

What it admits is served by its backend: by the server in the same process, or by
several processes. An upgrade replaces the front, with its backend: see `upgrades`.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Callable
from typing import Any, Protocol

from .. import system
from ..errors import ConfigurationError
from ..settings import Settings
from ..sshstate import LOGGED_IN, LOGGING_IN, SshState
from ..systemd import Notifier
from .arrivals import Arrival
from .figures import StateFile
from .gate import Gate
from .listening import Listener
from .server import AFTER_CUT
from .upgrades import Origin, Upgrades

log = logging.getLogger("lpserve")

#: Seconds until a front ends after it has cut all connections, its predecessors' too.
_AT_LAST = AFTER_CUT + 3


class Backend(Protocol):
    """Serves connections; `server.Server` describes the methods."""

    @property
    def connections(self) -> int: ...

    @property
    def sessions(self) -> int: ...

    def start(self) -> None: ...

    def finish(self) -> None: ...

    def configure(self, settings: Settings) -> None: ...

    def serve(self, made: socket.socket, arrival: Arrival, number: int) -> None: ...

    def stop(self) -> None: ...

    def cut(self, why: str) -> None: ...


class Front:
    """Accepts connections, asks the limits, and has the backend serve the rest.

    :param reactor: of the process; `run` runs it.
    :param read: reads the settings.
    :param reopen: opens the log anew.
    :param settings: those that were read at the start.
    :param origin: says where to listen: at an IP address and a port; 0 means any free
        port.
    :param runtime_dir: the directory of the fork service.
    """

    def __init__(
        self,
        reactor: Any,
        read: Callable[[], Settings],
        reopen: Callable[[], None],
        settings: Settings,
        origin: Origin,
        runtime_dir: str,
    ):
        self._reactor = reactor
        self._read = read
        self._reopen = reopen
        self._settings = settings
        self._gate = Gate(reactor, settings.login_rules)
        self._listener = Listener(reactor, origin.listen, self._arrived)
        self._listener.proxies = settings.proxy_protocol_from
        self._origin = origin
        self._ready = self._stopping = self._backend_over = self._ended = False
        self._told_by: set[int] = set()
        self._systemd = Notifier(reactor.callLater)
        self._status = self._fault = ""
        self._state_file = StateFile(reactor, runtime_dir, self._state)
        self._upgrades = Upgrades(
            reactor, origin, self, self._gate, self._listener, self._systemd
        )

    def open(self) -> None:
        """Listen, so that nobody else does.

        :raises ConfigurationError: if that is not possible.
        """
        takeover = self._origin.takeover
        if takeover is None:
            self._listener.open()
            return
        self._listener.adopt(takeover.socket)
        if takeover.listen != self._origin.listen:
            log.warning("a new lpserve.listen needs a restart")

    def run(self, backend: Backend) -> None:
        """Serve until a signal stops it.

        :raises ConfigurationError: if the backend cannot start.
        """
        self._backend = backend
        self._reactor.callWhenRunning(self._running)
        self._reactor.run()
        if self._fault:
            raise ConfigurationError(self._fault)

    def _running(self) -> None:
        def wake(number: int, frame: Any) -> None:
            self._reactor.callFromThread(self.signalled, number)

        signals = (signal.SIGHUP, signal.SIGUSR2)
        for number in (*system.stopping_signals(), *signals):
            signal.signal(number, wake)
        system.disable_debugger()
        system.keep_what_is_loaded()
        system.set_title("lp-serve-ssh")
        self._backend.start()

    def _arrived(self, made: socket.socket, arrival: Arrival) -> None:
        number = self._gate.admit(arrival)
        if number:
            self._backend.serve(made, arrival, number)
        else:
            made.close()

    # -- what the backend tells ------------------------------------------------

    def ready(self) -> None:
        """Connections can be served, for the first time or again."""
        again, self._ready = self._ready, True
        if not self._upgrades.waits_for_socket:
            self._accept()
        elif not again:
            self._upgrades.ready()  # connections are accepted when it has left them

    def _accept(self) -> None:
        if self._stopping or self._upgrades.has_left or not self._ready:
            return
        self._listener.start()
        if not self._status:
            self._state_file.open()
            self._status = f"Listening on {self._listener.address}"
            log.info("Listening on %s", self._listener.address)
            self._systemd.ready(self._status)
            self._systemd.watch_us()

    def unready(self) -> None:
        """No connection can be served: new ones wait until `ready`."""
        self._ready = False
        self._listener.pause()

    def failed(self, why: str) -> None:
        """No connection will ever be served."""
        self._fault = why
        self._end()

    def logged_in(self, number: int) -> None:
        """A client has logged in."""
        self._gate.logged_in(number)

    def lost(self, number: int, fault: str) -> None:
        """A connection is over; see `Gate.lost`."""
        self._gate.lost(number, "" if self._stopping else fault)
        self._upgrades.tell_counts()

    def sessions_changed(self, count: int) -> None:
        """The backend knows how many sessions there are."""
        self._upgrades.tell_counts()

    def over(self) -> None:
        """The backend has nothing left to wait for."""
        if self._backend_over:
            return
        self._backend_over = True
        if self._upgrades.has_left:
            log.info("process %d has finished its connections", os.getpid())
        self._end_if_over()

    # -- signals ---------------------------------------------------------------

    def signalled(self, number: int, origin: int = 0) -> None:
        """Stop, abort when told twice, reload or upgrade.

        :param origin: the predecessor that has passed the signal on. If it was sent to
            all processes, it comes from several.
        """
        if self._upgrades.pass_on(number):
            return
        gone = self._stopping or self._upgrades.has_left
        serves = bool(self._status) and not gone
        if number == signal.SIGHUP:
            self._reload(serves and self._upgrades.needed)
        elif number == signal.SIGUSR2:
            if serves:
                self._upgrades.begin("SIGUSR2")
        elif origin in self._told_by:
            self._cut("told twice to stop")
        else:
            self._told_by.add(origin)
            if not self._stopping:
                self._stop()

    def _reload(self, upgrade: bool) -> None:
        self._systemd.reloading()
        if upgrade:
            self._reopen()
            self._upgrades.begin("SIGHUP")
            return
        status = self._status
        try:
            settings = self._read()
            self._gate.limits.rules = settings.login_rules
            self._listener.proxies = settings.proxy_protocol_from
            self._backend.configure(settings)
            if settings.ssh_processes != self._settings.ssh_processes:
                log.warning("a new lpserve.ssh_processes needs an upgrade: SIGUSR2")
            self._settings = settings
            log.info("configuration reloaded")
        except ConfigurationError as error:
            log.error("cannot reload the configuration: %s", error)
            status += f"; the last reload failed: {error}"
        if not self._stopping:
            self._systemd.ready(status)

    def _stop(self) -> None:
        """Stop listening, and let the sessions finish."""
        self._stopping = True
        self._listener.close()
        sessions = self._backend.sessions + self._upgrades.sessions
        text = f"stopping; sessions that may finish: {sessions}"
        self._systemd.stopping(text)
        log.info("%s", text)
        self._cut_later()
        # Another process may listen here now, and count from 0.
        if not self._upgrades.has_left:
            self._state_file.write()
        self._upgrades.tell("stop")
        self._backend.stop()

    def _cut_later(self) -> None:
        timeout = self._settings.shutdown_timeout
        self._reactor.callLater(timeout, self._cut, f"not over after {timeout:g} s")

    def _cut(self, why: str) -> None:
        """Abort all connections, and end, whether they have ended or not."""
        self._upgrades.tell("cut", why=why)
        self._backend.cut(why)
        self._reactor.callLater(_AT_LAST, self._end)

    def _end_if_over(self) -> None:
        if self._backend_over and not self._upgrades.unfinished:
            if self._upgrades.follow():
                return
            self._end()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._upgrades.kill()
            self._upgrades.tell("over")
            self._listener.close()
            self._state_file.close()
            self._reactor.stop()

    # -- upgrades: see `upgrades.UpgradeControl` -------------------------------

    def counts(self) -> tuple[int, int]:
        """How many connections and sessions this process has."""
        return self._backend.connections, self._backend.sessions

    def go(self) -> None:
        """Serve: the socket is ours."""
        if self._stopping:
            # Not before it has heard that we serve.
            self._reactor.callLater(0, self._upgrades.tell, "stop")
        self._accept()

    def leave(self) -> None:
        """Accept no more connections for now."""
        self._listener.pause()
        self._state_file.write()

    def come_back(self) -> None:
        """Accept them again."""
        self._accept()
        self._state_file.write()

    def upgrade_failed(self, why: str) -> None:
        """No successor serves; everything is as before."""
        status = self._status
        status += f"; the last upgrade failed: {why}"
        if not self._stopping:
            self._systemd.ready(status)

    def handed_over(self) -> None:
        """The successor serves: end when no connection is left."""
        self._state_file.close()
        self._listener.leave(self._backend.finish)

    def successor_gone(self, well: bool) -> None:
        """The successor has ended: *well*, if all the others have too."""
        if not well:
            log.warning("the process that has taken over has ended")
            if self._origin.takeover is None:
                self._fault = "the process that has taken over has ended"
        if self._stopping:
            self._cut_later()
        if self._backend_over:
            self._end()

    def told_to_stop(self) -> None:
        """Let the sessions finish."""
        self._stopping = True
        self._listener.close()
        self._backend.stop()

    def told_to_cut(self, why: str) -> None:
        """Abort all connections."""
        self._stopping = True
        self._cut(why)

    def predecessor_over(self) -> None:
        """A predecessor has no connection any more."""
        if self._stopping:
            self._end_if_over()

    def _state(self) -> SshState:
        """What is told of lp-serve-ssh, whatever processes it has."""
        gate, figures = self._gate, self._gate.figures
        connections = sessions = entering = 0
        if not self._upgrades.has_left:  # or the successor tells of ours
            connections = self._backend.connections + self._upgrades.connections
            sessions = self._backend.sessions + self._upgrades.sessions
            entering = gate.count
        return SshState(
            str(self._listener.address),
            figures.started,
            self._stopping,
            {LOGGING_IN: entering, LOGGED_IN: max(0, connections - entering)},
            sessions,
            dict(figures.logins),
            dict(figures.drops),
            dict(figures.penalties),
        )
