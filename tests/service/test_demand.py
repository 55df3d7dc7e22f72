# SPDX-License-Identifier: GPL-2.0-or-later

"""How many spare workers are wanted: by a clock that the test turns."""

from breezy.tests import TestCase

from ...lpserve.service.demand import Demand


class TestDemand(TestCase):
    def setUp(self):
        super().setUp()
        self.now = 1000.0
        self.demand = Demand(lambda: self.now)
        self.demand.least, self.demand.most = 2, 16

    def arrive(self, count, rate=None):
        """So many connections, at once or so many in a second."""
        for _ in range(count):
            self.demand.arrived()
            if rate:
                self.now += 1 / rate

    def test_nothing_happens(self):
        self.assertEqual(2, self.demand.wanted)
        self.now += 1e9
        self.assertEqual(2, self.demand.wanted)

    def test_burst(self):
        """As many as came at once, but never more than may be."""
        self.arrive(2)
        self.assertEqual(2, self.demand.wanted)
        self.arrive(8)
        self.assertEqual(10, self.demand.wanted)
        self.arrive(6)
        self.assertEqual(16, self.demand.wanted)
        self.arrive(1000)
        self.assertEqual(16, self.demand.wanted)

    def test_bursts_do_not_add_up(self):
        for _ in range(10):
            self.arrive(5)
            self.now += 2 * Demand.WINDOW
        self.assertEqual(5, self.demand.wanted)

    def test_steady_rate(self):
        """Those that come while one worker is made; for as long as they come."""
        for rate in (100, 200):
            self.arrive(rate * 30, rate)
            expected = rate * Demand.WINDOW
            self.assertBetween(expected - 1, self.demand.wanted, expected + 2)
        # A slow one needs no more than there are anyway.
        self.arrive(60, 1)
        self.assertEqual(2, self.demand.wanted)

    def assertBetween(self, low, found, high):
        self.assertTrue(low <= found <= high, (low, found, high))

    def test_decays(self):
        """By half in every half-life, down to the least, and it stays there."""
        self.arrive(16)
        found = []
        for _ in range(5):
            found.append(self.demand.wanted)
            self.now += Demand.HALF_LIFE
        self.assertEqual([16, 8, 4, 2, 2], found)
        self.now += 1e9  # nothing overflows
        self.assertEqual(2, self.demand.wanted)

    def test_decays_although_a_few_come(self):
        """They neither keep the last burst up nor put an end to it."""
        self.arrive(16)
        for _ in range(10):
            self.now += Demand.HALF_LIFE / 10
            self.arrive(1)
        self.assertEqual(8, self.demand.wanted)

    def test_grows_again(self):
        self.arrive(16)
        self.now += 2 * Demand.HALF_LIFE
        self.arrive(3)
        self.assertEqual(4, self.demand.wanted)
        self.arrive(9)
        self.assertEqual(12, self.demand.wanted)

    def test_more_than_may_be(self):
        """What was more than may be does not keep others there for longer."""
        self.arrive(64)
        self.assertEqual(16, self.demand.wanted)
        self.now += Demand.HALF_LIFE
        self.assertEqual(8, self.demand.wanted)

    def test_none(self):
        """Who wants none gets none, whatever happens; and may change their mind."""
        self.demand.least = 0
        self.arrive(10)
        self.assertEqual(0, self.demand.wanted)
        self.demand.least = 1
        self.assertEqual(10, self.demand.wanted)

    def test_most_is_less_than_least(self):
        """What there is to be always wins."""
        self.demand.least, self.demand.most = 4, 1
        self.assertEqual(4, self.demand.wanted)
        self.arrive(10)
        self.assertEqual(4, self.demand.wanted)
