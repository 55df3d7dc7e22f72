# SPDX-License-Identifier: GPL-2.0-or-later

"""The scoreboard of the service: who has which slot, and what is in it."""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import logging
import os
from collections.abc import Iterable

from .. import scoreboard
from ..errors import text_of
from ..mapping import Mapping

log = logging.getLogger("lpserve")


class Board:
    """Makes the memory, and gives each worker a slot of it.

    Nobody can shrink the file: to read what is not there would end the service.

    :ivar descriptor: of the file, for zygotes; -1 where there is no such memory.
    """

    def __init__(self) -> None:
        self.descriptor = -1
        self._mapping: Mapping | None = None
        self._slots: dict[int, int] = {}
        # The lowest first: pages that were written once stay in memory.
        self._free = list(range(scoreboard.SLOTS))
        try:
            self._make()
        except OSError as error:
            log.error("no scoreboard, connections show less: %s", text_of(error))
            self.close()

    def _make(self) -> None:
        self.descriptor = os.memfd_create(
            "lpserve-scoreboard", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        )
        os.ftruncate(self.descriptor, scoreboard.SLOTS * scoreboard.SIZE)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, seals)
        self._mapping = Mapping(self.descriptor)

    def close(self) -> None:
        """Give the memory back."""
        if self._mapping is not None:
            self._mapping.close()
            self._mapping = None
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def take(self, serials: Iterable[int]) -> list[int]:
        """Slots for the workers with these serial numbers; -1 where there is none."""
        for serial in serials:
            if self._free and self._mapping is not None:
                self._slots[serial] = heapq.heappop(self._free)
        return [self._slots.get(serial, -1) for serial in serials]

    def release(self, serial: int) -> None:
        """The worker does nothing more."""
        with contextlib.suppress(KeyError):
            heapq.heappush(self._free, self._slots.pop(serial))

    def read(self, serial: int) -> scoreboard.Entry:
        """What the worker has written."""
        return scoreboard.decode(self.take_snapshot(serial))

    def take_snapshot(self, serial: int) -> bytes:
        """The same, for `scoreboard.decode`."""
        slot = self._slots.get(serial)
        if slot is None or self._mapping is None:
            return b""
        start = slot * scoreboard.SIZE
        return scoreboard.take_snapshot(self._mapping.view[start:], serial)
