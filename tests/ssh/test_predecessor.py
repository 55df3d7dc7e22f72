# SPDX-License-Identifier: GPL-2.0-or-later

"""What a front hears of one that has handed over."""

from breezy.tests import TestCase

from ...lpserve import channel
from ...lpserve.loginrules import Rules, parse_max_startups
from ...lpserve.ssh.limits import Limits
from ...lpserve.ssh.predecessor import Predecessor
from ...lpserve.ssh.reactorloop import ReactorLoop
from .clockreactor import Reactor


class Owner:
    """Notes what it is told, as a `predecessor.PredecessorOwner`."""

    def __init__(self):
        self.told = []

    def __getattr__(self, name):
        return lambda *words: self.told.append((name, *words))


class TestPredecessor(TestCase):
    def setUp(self):
        super().setUp()
        self.reactor = Reactor()
        self.owner = Owner()
        self.limits = Limits(Rules(parse_max_startups("10:30:100")))
        self.source = self.limits.source("192.0.2.1").hex()
        ours, self.theirs = channel.pair()
        self.addCleanup(self.theirs.close)
        self.made = self.predecessor(ours)
        state = {"connections": 3, "sessions": 1, "follows": False}
        self.made.take({**state, "entering": {self.source: 2}})
        self.made.listen()

    def predecessor(self, end):
        about = {"pid": 4711, "version": "1"}
        return Predecessor(
            ReactorLoop(self.reactor), end, about, self.limits, self.owner
        )

    def hear(self, kind, **fields):
        channel.send(self.theirs, kind, **fields)
        self.reactor.turn()

    def test_entering(self):
        """Its clients count for the limits until they are in, or it has ended."""
        self.assertEqual(2, self.limits.count)
        self.hear("began", source=self.source)
        self.assertEqual(3, self.limits.count)
        self.hear("logged-in", source=self.source, fault="", host="")
        self.hear("dropped", source="", fault="past max_startups", host="")
        self.assertEqual(2, self.limits.count)
        wanted = [
            ("note", "logged-in", "", ""),
            ("note", "dropped", "past max_startups", ""),
        ]
        self.assertEqual(wanted, self.owner.told)
        self.theirs.close()
        self.reactor.turn()
        self.assertEqual(0, self.limits.count)
        self.assertEqual(("predecessor_gone", self.made), self.owner.told[-1])
        self.assertEqual({}, self.reactor.readers)

    def test_handed_on(self):
        """While nobody listens, what it says waits for our successor."""
        self.made.pause()
        self.hear("count", connections=2, sessions=2)
        self.hear("follows")
        self.assertEqual(3, self.made.connections)
        _, number = self.made.copy()
        described = self.made.describe()
        self.made.close()
        self.made = self.predecessor(channel.end_of(number))
        self.made.take(described)
        self.assertEqual((2, 3), (self.limits.count, self.made.connections))
        self.made.listen()
        self.reactor.turn()
        self.assertEqual((2, 2), (self.made.connections, self.made.sessions))
        self.assertTrue(self.made.follows)
        self.made.close()
