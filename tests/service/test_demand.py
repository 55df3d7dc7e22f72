# SPDX-License-Identifier: GPL-2.0-or-later

"""How many spare workers are wanted. The test sets the clock."""

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

    def test_burst(self):
        """As many as came at once, but at most `Demand.most`."""
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
        """As many as come while one worker is made."""
        for rate in (100, 200):
            self.arrive(rate * 30, rate)
            expected = rate * Demand.WINDOW
            self.assertBetween(expected - 1, self.demand.wanted, expected + 2)
        # At a low rate the least number is enough.
        self.arrive(60, 1)
        self.assertEqual(2, self.demand.wanted)

    def assertBetween(self, low, found, high):
        self.assertTrue(low <= found <= high, (low, found, high))

    def test_decays(self):
        """By half in every half-life, down to the least; a larger burst no slower."""
        self.arrive(64)
        found = []
        for _ in range(5):
            found.append(self.demand.wanted)
            self.now += Demand.HALF_LIFE
        self.assertEqual([16, 8, 4, 2, 2], found)
        self.now += 1e9  # nothing overflows
        self.assertEqual(2, self.demand.wanted)

    def test_decays_although_a_few_come(self):
        """A few connections do not change how a burst decays."""
        self.arrive(16)
        for _ in range(10):
            self.now += Demand.HALF_LIFE / 10
            self.arrive(1)
        self.assertEqual(8, self.demand.wanted)

    def test_none(self):
        """With a least number of 0 there are none."""
        self.demand.least = 0
        self.arrive(10)
        self.assertEqual(0, self.demand.wanted)
        self.demand.least = 1
        self.assertEqual(10, self.demand.wanted)

    def test_most_is_less_than_least(self):
        """The least number wins over the most."""
        self.demand.least, self.demand.most = 4, 1
        self.assertEqual(4, self.demand.wanted)
        self.arrive(10)
        self.assertEqual(4, self.demand.wanted)
