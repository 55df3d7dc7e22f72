# SPDX-License-Identifier: GPL-2.0-or-later

"""Makes the periodic checks of the service, for what no event reports."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..paths import RuntimeDirectory
from .children import Children
from .door import Doors
from .pool import Pool
from .stuck import StuckWorkers
from .zygotes import Zygotes

if TYPE_CHECKING:
    from ..settings import Settings
    from .loop import Callback

log = logging.getLogger("lpserve")

#: Seconds between checks.
HOUSEKEEPING = 5.0


class Housekeeping:
    """Makes the periodic checks.

    :param call: calls each check, so that a failure does not prevent the others.
    :param settings: returns the current settings.
    :param others: further checks, which write to files of the service.
    """

    def __init__(
        self,
        directory: RuntimeDirectory,
        doors: Doors,
        children: Children,
        pool: Pool,
        zygotes: Zygotes,
        call: Callable[[Callback], None],
        settings: Callable[[], Settings],
        others: Sequence[Callback],
    ):
        self._directory = directory
        self._doors = doors
        self._others = others
        self._children = children
        self._pool = pool
        self._zygotes = zygotes
        self._call = call
        self._settings = settings
        self._stuck = StuckWorkers(pool, directory)
        self._widened: list[str] = []
        self._faults: list[str] = []

    @property
    def warnings(self) -> list[str]:
        """What an administrator should correct, a line each."""
        zygote = self._zygotes.present
        return self._widened + self._faults + (zygote.warnings if zygote else [])

    def run_chores(self) -> str | None:
        """Make all checks.

        :returns: the path of a door, or of the runtime directory, that was removed
            or replaced; else None.
        """
        for chore in (
            self._zygotes.ping,
            self._stuck.end_spares,
            self._children.sweep,
            self._reap,
        ):
            self._call(chore)
        lost = self._doors.sweep()
        if lost is None and not self._directory.is_ours:
            lost = self._directory.path
        if lost is None:  # else the files may belong to another service
            for chore in (
                self._check_directory,
                self._directory.clear_replies,
                self._clear_connections,
                self.clear_rehearsals,
                *self._others,
            ):
                self._call(chore)
        return lost

    def run_last_chores(self) -> None:
        """Make the checks of a service whose doors and directory are another's."""
        for chore in (
            self._zygotes.ping,
            self._children.sweep,
            self._reap,
            self._clear_connections,
            self._doors.sweep,
        ):
            self._call(chore)

    def clear_rehearsals(self) -> None:
        """Remove the directories of rehearsals whose zygotes have ended."""
        if self._directory.is_ours:
            self._directory.clear_rehearsals()

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
