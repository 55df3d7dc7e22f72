# SPDX-License-Identifier: GPL-2.0-or-later

"""Admits connections, as the limits allow, and counts what becomes of them.

There is one gate, however many processes serve what it admits.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
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
    :ivar tell: told of clients after a handover: a kind of message of `predecessor`,
        with its fields; None as long as we count them ourselves.
    """

    def __init__(self, reactor: Any, rules: Rules):
        self.limits = Limits(rules)
        self.figures = Figures()
        self._reactor = reactor
        self._entering: dict[int, _Entering] = {}
        self._serial = 0
        self._dropped = self._unlogged = 0
        self._telling: Any = None
        self.tell: Callable[..., None] | None = None

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
            self._count("dropped", fault=reason)
            self._log_dropped(arrival, reason)
            return 0
        self._serial += 1
        source = self.limits.begin(host)
        self._entering[self._serial] = _Entering(arrival, source)
        if self.tell is not None:
            self.tell("began", source=source.hex())
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
            self._count("logged-in", entering.source)

    def lost(self, number: int, fault: str) -> None:
        """A connection is over.

        :param fault: one of `loginrules.REASONS` if the client has not logged in; ""
            if that was not its fault.
        """
        entering = self._entering.pop(number, None)
        if entering is None:
            return
        self.limits.end(entering.source)
        host = "" if entering.arrival.is_probe else entering.arrival.peer.host
        self._count("lost", entering.source, fault, host)

    def _count(
        self, kind: str, source: bytes = b"", fault: str = "", host: str = ""
    ) -> None:
        if self.tell is None:
            self.note(kind, fault, host)
        else:
            self.tell(kind, source=source.hex(), fault=fault, host=host)

    def note(self, kind: str, fault: str, host: str) -> None:
        """Count a client here which may have been admitted by another gate.

        :param kind: ``logged-in``, ``lost`` or ``dropped``.
        :param fault: as of `lost`; why it was dropped.
        :param host: whose source gets a penalty; "" if none does.
        """
        if kind == "logged-in":
            self.figures.logged_in()
        elif kind == "dropped":
            self.figures.dropped(fault)
        elif fault:
            self.figures.not_logged_in(fault)
            if host:
                self._penalise(host, fault)

    def entering(self) -> Counter[bytes]:
        """How many clients of each source we have that have not logged in."""
        return Counter(each.source for each in self._entering.values())

    def _penalise(self, host: str, fault: str) -> None:
        seconds = self.limits.penalise(host, fault, time.monotonic())
        if seconds:
            self.figures.penalised(fault)
            reason = REASONS[fault]
            log.warning("%s is refused for %.0f s: %s", host, seconds, reason)
