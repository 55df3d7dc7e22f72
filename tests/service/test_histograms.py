# SPDX-License-Identifier: GPL-2.0-or-later

"""Counts of durations."""

from breezy.tests import TestCase

from ...lpserve.service.histograms import LONG, SHORT, Histogram


class TestHistogram(TestCase):
    def test_tell(self):
        """Buckets count what is at most their bound, the smaller ones included."""
        histogram = Histogram((1.0, 2.0, 5.0))
        for value in (0.5, 1.0, 1.5, 5.0, 7.0, -1.0):
            histogram.observe(value)
        self.assertEqual(
            {"buckets": [[1.0, 3], [2.0, 4], [5.0, 5]], "sum": 15.0, "count": 6},
            histogram.tell(),
        )

    def test_bounds(self):
        for bounds in (SHORT, LONG):
            self.assertEqual(sorted(set(bounds)), list(bounds))
