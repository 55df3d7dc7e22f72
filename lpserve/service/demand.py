# SPDX-License-Identifier: GPL-2.0-or-later

"""Computes how many spare workers there should be."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class Demand:
    """The number of spare workers, from the rate at which connections arrive.

    It is the highest number of connections that have arrived within `WINDOW`
    seconds. Without new connections it decays.

    :param clock: returns the time in seconds.
    :ivar least: the least number; if it is 0, there are never any.
    :ivar most: the highest number.
    """

    #: Seconds that it takes to fork spare workers, on a busy machine.
    WINDOW = 0.05
    #: Seconds in which the number decays to half.
    HALF_LIFE = 1.0

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.least = self.most = 0
        self._clock = clock
        self._begun = -math.inf
        self._count = 0
        self._peak = 0
        self._peaked = 0.0

    def arrived(self) -> None:
        """Count one connection."""
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
        """How many spare workers there should be now."""
        if not self.least:
            return 0
        needed = math.ceil(self._decayed(self._clock()))
        return max(self.least, min(needed, self.most))
