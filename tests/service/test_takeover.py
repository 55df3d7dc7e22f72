# SPDX-License-Identifier: GPL-2.0-or-later

"""What a service asks and hears of one that finishes its connections."""

import os
import resource
import socket

from breezy.tests import TestCase

from ...lpserve import channel
from ...lpserve.service.loop import Loop
from ...lpserve.service.takeover import Predecessor
from .turning import turn


class Owner:
    """Notes what it is told, as a `takeover.TakeoverObserver`."""

    def __init__(self):
        self.told = []

    def __getattr__(self, name):
        return lambda *words: self.told.append((name, *words))


class TestPredecessor(TestCase):
    def setUp(self):
        super().setUp()
        self.loop = Loop(self.fail)
        self.addCleanup(self.loop.close)
        ours, self.theirs = channel.pair()
        self.addCleanup(self.theirs.close)
        self.owner = Owner()
        about = {"pid": 4711, "version": "1"}
        self.predecessor = Predecessor(self.loop, ours, about, self.owner)
        self.predecessor.listen()
        self.answers = []

    def turn(self, done):
        turn(self.loop, done)

    def ask(self):
        self.predecessor.ask(["connections"], self.answers.append)

    def test_answer(self):
        """A connection is passed, on which it asks as a client does."""
        self.ask()
        message, [number] = channel.receive(self.theirs)
        self.assertEqual("adopt", message["kind"])
        with socket.socket(fileno=number) as link:
            self.assertEqual(b"connections\n", link.recv(100))
            link.sendall(b"ok '[\"it'\"'\"'s\"]'\n")
        self.turn(lambda: self.answers)
        self.assertEqual(['["it\'s"]'], self.answers)

    def test_refused(self):
        self.ask()
        _, [number] = channel.receive(self.theirs)
        with socket.socket(fileno=number) as link:
            link.sendall(b"error denied no\n")
        self.turn(lambda: self.answers)
        self.assertEqual([None], self.answers)

    def test_ended(self):
        """It has ended, and nobody here has heard of it yet."""
        self.theirs.close()
        self.ask()
        self.turn(lambda: self.answers)
        self.assertEqual([None], self.answers)
        self.turn(lambda: self.owner.told)
        self.assertEqual([("predecessor_gone", self.predecessor)], self.owner.told)

    def test_no_descriptors(self):
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        free = os.dup(self.theirs.fileno())
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
        self.ask()
        self.turn(lambda: self.answers)
        self.assertEqual([None], self.answers)

    def test_connections(self):
        """Those that stay are counted, and each is taken off once."""
        for user in "a", "a", "b":
            self.predecessor.stays(user, "")
        ended = {"line": "{}", "how": "ended", "door": "fifo", "address": ""}
        channel.send(self.theirs, "ended", user="a", **ended)
        channel.send(self.theirs, "ended", user="late", **ended)
        self.turn(lambda: ("enter", "{}", "ended", "fifo") in self.owner.told[-1:])
        self.assertEqual(2, self.predecessor.connections)
        self.theirs.close()
        self.turn(lambda: self.owner.told[-1][0] == "predecessor_gone")
        gone = [each[1] for each in self.owner.told if each[0] == "connection_gone"]
        self.assertEqual(["a", "a", "b"], gone)
