# SPDX-License-Identifier: GPL-2.0-or-later

"""Counts of durations, as an exporter of metrics wants them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

#: Upper bounds in seconds: of what takes milliseconds, and of whole connections.
SHORT = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0),
)
LONG = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0)


class Histogram:
    """How many of the values seen so far are at most so large.

    :param bounds: of its buckets, ascending; one more has the rest.
    :ivar count: of the values.
    :ivar sum: of the values.
    """

    def __init__(self, bounds: Sequence[float] = SHORT):
        self.bounds = tuple(bounds)
        self.count = 0
        self.sum = 0.0
        self._counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count *value*; one below 0, of a clock that is read twice, is 0."""
        value = max(0.0, value)
        self._counts[bisect_left(self.bounds, value)] += 1
        self.count += 1
        self.sum += value

    def tell(self) -> dict[str, object]:
        """``buckets``, pairs of a bound and the count up to it; ``sum``; ``count``.

        The last bucket, which has no bound, is ``count``.
        """
        buckets, total = [], 0
        for bound, count in zip(self.bounds, self._counts):
            total += count
            buckets.append([bound, total])
        return {"buckets": buckets, "sum": round(self.sum, 6), "count": self.count}
