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
from .upgrades import Upgrades
from .warmer import Warmer

log = logging.getLogger("lpserve")

#: What a worker says of a repository that it has used.
_USED = ("path", "outcome")


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
        totals: Counter[str],
    ):
        self._accounts = accounts
        self._access = access
        self._warmer = warmer
        self._totals = totals

    def handle_message(self, message: dict[str, Any]) -> None:
        """Handle a ``pretences`` or ``used`` message of a worker."""
        if message["kind"] == "pretences":
            self._access.handle_message(message)
            return
        self._accounts.used(message)
        if self.upgrades.is_over:
            self.upgrades.tell("used", **{name: message.get(name) for name in _USED})
        else:
            self._warmer.handle_message(message)

    def ended(self, connection: Connection, worker: Worker, end: ExitStatus) -> None:
        """A connection has ended."""
        self._totals[self._accounts.ended(connection, worker, end)] += 1
        assert worker.child is not None
        log.info(
            "worker %d for %s: %s after %.3f s",
            worker.child.pid,
            connection.user,
            end,
            time.monotonic() - connection.started,
        )
