# SPDX-License-Identifier: GPL-2.0-or-later

"""The front: the process that listens, and that signals and systemd speak to.

What it admits is served by its backend: by the server in the same process, or by
several processes.
"""

from __future__ import annotations

import logging
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

log = logging.getLogger("lpserve")


class Backend(Protocol):
    """Serves connections; `server.Server` describes the methods."""

    @property
    def connections(self) -> int: ...

    @property
    def sessions(self) -> int: ...

    def start(self) -> None: ...

    def configure(self, settings: Settings) -> None: ...

    def serve(self, made: socket.socket, arrival: Arrival, number: int) -> None: ...

    def stop(self) -> None: ...

    def cut(self, why: str) -> None: ...


class Front:
    """Accepts connections, asks the limits, and has the backend serve the rest.

    :param reactor: of the process; `run` runs it.
    :param read: reads the settings.
    :param settings: those that were read at the start.
    :param listen: an IP address and a port; 0 means any free port.
    :param runtime_dir: the directory of the fork service.
    """

    def __init__(
        self,
        reactor: Any,
        read: Callable[[], Settings],
        settings: Settings,
        listen: tuple[str, int],
        runtime_dir: str,
    ):
        self._reactor = reactor
        self._read = read
        self._settings = settings
        self._gate = Gate(reactor, settings.login_rules)
        self._listener = Listener(reactor, listen, self._arrived)
        self._listener.proxies = settings.proxy_protocol_from
        self._stopping = self._ended = False
        self._systemd = Notifier(reactor.callLater)
        self._status = self._fault = ""
        self._state_file = StateFile(reactor, runtime_dir, self._state)

    def open(self) -> None:
        """Listen, so that nobody else does.

        :raises ConfigurationError: if that is not possible.
        """
        self._listener.open()

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
            self._reactor.callFromThread(self._handle_signal, number)

        for number in (*system.stopping_signals(), signal.SIGHUP):
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
        if self._stopping:
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

    def sessions_changed(self, count: int) -> None:
        """The backend knows how many sessions there are."""

    def over(self) -> None:
        """Nothing is left to wait for."""
        self._end()

    # -- signals ---------------------------------------------------------------

    def _handle_signal(self, number: int) -> None:
        """Reload at SIGHUP; stop at the first other signal, abort at the second."""
        if number == signal.SIGHUP:
            self._reload()
        elif self._stopping:
            self._backend.cut("told twice to stop")
        else:
            self._stop()

    def _reload(self) -> None:
        self._systemd.reloading()
        status = self._status
        try:
            settings = self._read()
            self._gate.limits.rules = settings.login_rules
            self._listener.proxies = settings.proxy_protocol_from
            self._backend.configure(settings)
            if settings.ssh_processes != self._settings.ssh_processes:
                log.warning("a new lpserve.ssh_processes needs a restart")
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
        text = f"stopping; sessions that may finish: {self._backend.sessions}"
        self._systemd.stopping(text)
        log.info("%s", text)
        self._listener.close()
        timeout = self._settings.shutdown_timeout
        why = f"not over after {timeout:g} s"
        self._reactor.callLater(timeout, self._backend.cut, why)
        # Another process may listen here now, and count from 0.
        self._state_file.write()
        self._backend.stop()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._listener.close()
            self._state_file.close()
            self._reactor.stop()

    def _state(self) -> SshState:
        """What is told of lp-serve-ssh, whatever processes it has."""
        gate, figures = self._gate, self._gate.figures
        return SshState(
            str(self._listener.address),
            figures.started,
            self._stopping,
            {
                LOGGING_IN: gate.count,
                LOGGED_IN: max(0, self._backend.connections - gate.count),
            },
            self._backend.sessions,
            dict(figures.logins),
            dict(figures.drops),
            dict(figures.penalties),
        )
