# SPDX-License-Identifier: GPL-2.0-or-later

"""What is counted of clients that log in, by the gate that has them or by another."""

import logging

from breezy.tests import TestCase
from twisted.internet.task import Clock

from ...lpserve.loginrules import Rules, parse_max_startups, parse_penalties
from ...lpserve.ssh.arrivals import Address, Arrival
from ...lpserve.ssh.gate import Gate

RULES = Rules(
    parse_max_startups("10:100:10"),
    1,
    penalties=parse_penalties("authfail:60s noauth:60s min:1s"),
)


def arrival(host, probe=False):
    peer = Address(host, 1)
    return Arrival(0.0, peer, peer, peer if probe else None)


class TestGate(TestCase):
    def setUp(self):
        super().setUp()
        self.overrideAttr(logging.getLogger("lpserve"), "disabled", True)
        self.gate = Gate(Clock(), RULES)
        self.other = Gate(Clock(), RULES)
        self.told = []

    def tell(self, kind, source="", fault="", host=""):
        self.told.append(kind)
        if kind != "began":
            self.other.note(kind, fault, host)

    def test_other(self):
        """After a handover another gate has the figures and the penalties."""
        before = self.gate.admit(arrival("192.0.2.1"))
        self.gate.tell = self.tell
        after = self.gate.admit(arrival("192.0.2.2"))
        self.assertEqual(0, self.gate.admit(arrival("192.0.2.2")))
        probe = self.gate.admit(arrival("192.0.2.3", probe=True))
        self.gate.logged_in(before)
        self.gate.lost(before, "")
        self.gate.lost(after, "authfail")
        self.gate.lost(probe, "noauth")
        kinds = ["began", "dropped", "began", "logged-in", "lost", "lost"]
        self.assertEqual(kinds, self.told)
        self.assertEqual((0, {}), (self.gate.count, dict(self.gate.figures.logins)))
        figures = self.other.figures
        wanted = {"accepted": 1, "authfail": 1, "noauth": 1}
        self.assertEqual(wanted, dict(figures.logins))
        self.assertEqual({"per_source_max_startups": 1}, dict(figures.drops))
        self.assertEqual({"authfail": 1}, dict(figures.penalties))
        self.assertEqual(0, self.other.admit(arrival("192.0.2.2")))
        self.assertNotEqual(0, self.other.admit(arrival("192.0.2.3")))
