# SPDX-License-Identifier: GPL-2.0-or-later

"""How many spare workers the connections that arrive need."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class Demand:
    """As many as connections have arrived lately while a spare worker is made.

    :param clock: tells the time in seconds.
    :ivar least: how many are wanted when nothing happens; if 0, always.
    :ivar most: how many are wanted at most.
    """

    #: Seconds in which spare workers are made, on a busy machine.
    WINDOW = 0.05
    #: Seconds after which half as many are wanted.
    HALF_LIFE = 1.0

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.least = self.most = 0
        self._clock = clock
        self._begun = -math.inf
        self._count = 0
        self._peak = 0
        self._peaked = 0.0

    def arrived(self) -> None:
        """One more connection."""
        now = self._clock()
        if now - self._begun > self.WINDOW:
            self._begun = now
            self._count = 0
        self._count += 1
        if self._count >= self._decayed(now):
            self._peak = min(self._count, self.most)
            self._peaked = now

    def _decayed(self, now: float) -> float:
        return self._peak * math.pow(0.5, (now - self._peaked) / self.HALF_LIFE)

    @property
    def wanted(self) -> int:
        """How many there should be now."""
        if not self.least:
            return 0
        needed = math.ceil(self._decayed(self._clock()))
        return max(self.least, min(needed, self.most))
