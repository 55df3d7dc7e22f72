# SPDX-License-Identifier: GPL-2.0-or-later

"""Admits connections, as the limits allow, and counts what becomes of them.

There is one gate, however many processes serve what it admits.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

from ..loginrules import REASONS, Rules
from .arrivals import Arrival
from .figures import Figures
from .limits import Limits

log = logging.getLogger("lpserve")

#: Seconds between two log lines about dropped connections.
_DROPS_INTERVAL = 10.0


@dataclass(frozen=True)
class _Entering:
    """A connection that has not logged in.

    :ivar source: of `Limits.begin`.
    """

    arrival: Arrival
    source: bytes


class Gate:
    """Decides about connections, and keeps those that have not logged in.

    :param reactor: calls later.
    :ivar limits: decides which connections are admitted.
    :ivar figures: counts logins, and connections that were not admitted.
    """

    def __init__(self, reactor: Any, rules: Rules):
        self.limits = Limits(rules)
        self.figures = Figures()
        self._reactor = reactor
        self._entering: dict[int, _Entering] = {}
        self._serial = 0
        self._dropped = self._unlogged = 0
        self._telling: Any = None

    @property
    def count(self) -> int:
        """How many connections have not logged in."""
        return self.limits.count

    def admit(self, arrival: Arrival) -> int:
        """The number of the connection from now on; 0 if it is to be dropped.

        A proxy itself gets no penalties: its health checks do not log in.
        """
        host, now = arrival.peer.host, time.monotonic()
        reason = self.limits.refusal(host, now, arrival.is_probe)
        if reason:
            self.figures.dropped(reason)
            self._log_dropped(arrival, reason)
            return 0
        self._serial += 1
        source = self.limits.begin(host)
        self._entering[self._serial] = _Entering(arrival, source)
        return self._serial

    def _log_dropped(self, arrival: Arrival, reason: str) -> None:
        """Log the first dropped connection, then their number per interval."""
        self._dropped += 1
        if self._telling is not None:
            self._unlogged += 1
            return
        log.warning(
            "drop connection #%d from %s: %s", self._dropped, arrival.peer, reason
        )
        self._tell_later()

    def _tell_later(self) -> None:
        self._unlogged = 0
        later = self._reactor.callLater
        self._telling = later(_DROPS_INTERVAL, self._log_all_dropped)

    def _log_all_dropped(self) -> None:
        self._telling = None
        if self._unlogged:
            log.warning("%d more connections were dropped", self._unlogged)
            self._tell_later()

    def logged_in(self, number: int) -> None:
        """A client has logged in."""
        entering = self._entering.pop(number, None)
        if entering is not None:
            self.limits.end(entering.source)
            self.figures.logged_in()

    def lost(self, number: int, fault: str) -> None:
        """A connection is over.

        :param fault: one of `loginrules.REASONS` if the client has not logged in; ""
            if that was not its fault.
        """
        entering = self._entering.pop(number, None)
        if entering is None:
            return
        self.limits.end(entering.source)
        if not fault:
            return
        self.figures.not_logged_in(fault)
        if not entering.arrival.is_probe:
            self._penalise(entering.arrival.peer.host, fault)

    def _penalise(self, host: str, fault: str) -> None:
        seconds = self.limits.penalise(host, fault, time.monotonic())
        if seconds:
            self.figures.penalised(fault)
            reason = REASONS[fault]
            log.warning("%s is refused for %.0f s: %s", host, seconds, reason)
