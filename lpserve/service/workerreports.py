# SPDX-License-Identifier: GPL-2.0-or-later

"""Handles what workers report, and how their connections end."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import Any

from .accesswatch import AccessWatch
from .accounts import Accounts
from .children import ExitStatus
from .connection import Connection, Worker
from .streams import KINDS, MADE, USED, Streams
from .upgrades import Upgrades
from .warmer import Warmer

log = logging.getLogger("lpserve")

#: What a successor is told of a repository, or a stream, that was used or made.
_TOLD = ("path", "outcome", "key", "size", "how")
_FOR_SUCCESSORS = ("used", MADE, USED)


class WorkerReports:
    """Passes them on to the parts of the service.

    :param totals: counts of how connections have ended.
    :ivar upgrades: has the successor, which may keep what is in memory.
    """

    upgrades: Upgrades

    def __init__(
        self,
        accounts: Accounts,
        access: AccessWatch,
        warmer: Warmer,
        streams: Streams,
        totals: Counter[str],
    ):
        self._accounts = accounts
        self._access = access
        self._warmer = warmer
        self._streams = streams
        self._totals = totals

    def handle_message(self, worker: Worker, message: dict[str, Any]) -> None:
        """Handle a message of a worker: ``pretences``, ``used``, or about a stream."""
        kind = message["kind"]
        if kind == "pretences":
            self._access.handle_message(message)
        elif kind == "used":
            self._accounts.used(message)
            if not self.upgrades.is_over:
                self._warmer.handle_message(message)
        elif kind in KINDS:
            self._streams.handle_message(worker, message)
        if kind in _FOR_SUCCESSORS and self.upgrades.is_over:
            fields = {name: message[name] for name in _TOLD if name in message}
            self.upgrades.tell(kind, **fields)

    def ended(self, connection: Connection, worker: Worker, end: ExitStatus) -> None:
        """A connection has ended."""
        self._streams.ended(worker)
        self._totals[self._accounts.ended(connection, worker, end)] += 1
        assert worker.child is not None
        log.info(
            "worker %d for %s: %s after %.3f s",
            worker.child.pid,
            connection.user,
            end,
            time.monotonic() - connection.started,
        )
