# SPDX-License-Identifier: GPL-2.0-or-later

"""What the service does now and then: it looks for what nobody tells it of."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..paths import RuntimeDirectory
from .children import Children
from .pool import Pool
from .stuck import Stuck
from .zygotes import Zygotes

if TYPE_CHECKING:
    from ..settings import Settings
    from .loop import Callback

log = logging.getLogger("lpserve")

#: Seconds between looks.
HOUSEKEEPING = 5.0


class House:
    """See the module.

    :param call: calls each chore, so that one that fails does not stop the others.
    :param settings: tells those in force.
    """

    def __init__(
        self,
        directory: RuntimeDirectory,
        children: Children,
        pool: Pool,
        zygotes: Zygotes,
        call: Callable[[Callback], None],
        settings: Callable[[], Settings],
    ):
        self._directory = directory
        self._children = children
        self._pool = pool
        self._zygotes = zygotes
        self._call = call
        self._settings = settings
        self._stuck = Stuck(pool, directory)
        self._widened: list[str] = []
        self._faults: list[str] = []

    @property
    def warnings(self) -> list[str]:
        """What somebody should see to: a line each."""
        zygote = self._zygotes.present
        return self._widened + self._faults + (zygote.warnings if zygote else [])

    def keep(self) -> None:
        """Do all of it."""
        for chore in (
            self._zygotes.ping,
            self._stuck.end_spares,
            self._children.sweep,
            self._reap,
            self._check_directory,
            self._directory.clear_replies,
            self._clear_connections,
            self.clear_rehearsals,
        ):
            self._call(chore)

    def clear_rehearsals(self) -> None:
        """Remove what zygotes that have ended left."""
        self._directory.clear_rehearsals(self._zygotes.pids)

    def _reap(self) -> None:
        if not self._pool.in_flight:
            self._children.reap_strangers()

    def _clear_connections(self) -> None:
        self._stuck.end_connections(self._settings().connect_timeout)

    def _check_directory(self) -> None:
        peers = bool(self._settings().allowed_uids)
        if self._directory.close_to_others(peers):
            when = time.strftime("%Y-%m-%d %H:%M:%S")
            text = (
                f"{self._directory.path} was writable by others, until {when}: "
                "its mode is what it was"
            )
            log.error("%s", text)
            self._widened = [text]
        faults = self._directory.restore()
        for fault in faults:
            if fault not in self._faults:
                log.error("%s: no connections through FIFOs until it is removed", fault)
        self._faults = faults
