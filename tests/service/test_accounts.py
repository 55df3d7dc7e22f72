# SPDX-License-Identifier: GPL-2.0-or-later

"""The scoreboard of the service, and the books that it keeps."""

import json
import mmap
import os

from breezy.tests import TestCase

from ...lpserve import scoreboard
from ...lpserve.scoreboard import SIZE, Slot
from ...lpserve.service.accounts import Accounts
from ...lpserve.service.board import Board
from ...lpserve.service.children import Child, ExitStatus
from ...lpserve.service.connection import Connection, Worker
from ...lpserve.service.doors import Reply


class TestBoard(TestCase):
    def setUp(self):
        super().setUp()
        self.board = Board()
        self.addCleanup(self.board.close)

    def test_slots(self):
        """A slot goes to one worker after the other, and says nothing of the last."""
        self.assertEqual([0, 1], self.board.take([10, 11]))
        memory = mmap.mmap(self.board.descriptor, 0)
        slot = Slot(memoryview(memory)[SIZE : 2 * SIZE], 11)
        slot.begin()
        slot.request(b"hello", None)
        self.assertEqual("hello", self.board.read(11).verb)
        self.assertEqual("", self.board.read(10).verb)
        self.board.release(11)
        self.board.release(11)
        self.assertEqual([1], self.board.take([12]))
        self.assertEqual("", self.board.read(12).verb)

    def test_full(self):
        """Workers beyond the last slot are told of without it."""
        taken = self.board.take(range(1, scoreboard.SLOTS + 2))
        self.assertEqual([scoreboard.SLOTS - 1, -1], taken[-2:])
        self.assertEqual(scoreboard.Entry(), self.board.read(scoreboard.SLOTS + 1))

    def test_cannot_shrink(self):
        """To read what a zygote has cut off would end the service."""
        self.assertRaises(OSError, os.ftruncate, self.board.descriptor, 0)


class TestAccounts(TestCase):
    def setUp(self):
        super().setUp()
        board = Board()
        self.addCleanup(board.close)
        self.accounts = Accounts(board)

    def end(self, user, kind="exit", number=0, **fields):
        connection = Connection(user, {}, Reply(), **fields)
        worker = Worker(1, None, 1)
        worker.connection = connection
        worker.child = Child(4711, -1, lambda end: None, False)
        return self.accounts.ended(connection, worker, ExitStatus(kind, number))

    def test_results(self):
        self.accounts.keep(10, None)
        for expected, end in (
            ("ended", {}),
            ("ended", {"client_gone": True}),
            ("gone", {"client_gone": True, "number": 3}),
            ("failed", {"kind": "signal", "number": 9}),
            ("evicted", {"evicted": True}),
            ("evicted", {"evicted": True, "kind": "signal", "number": 15}),
        ):
            self.assertEqual(expected, self.end("alice", **end))
        found = json.loads(self.accounts.history(None))
        self.assertEqual("evicted", found[-1]["how"])
        metrics = self.accounts.metrics(os.getpid(), None, [])
        counts = {
            each["result"]: each["count"]
            for each in metrics["connections"]
            if each["door"] == "fifo"
        }
        self.assertEqual({"ended": 2, "gone": 1, "failed": 1, "evicted": 2}, counts)

    def test_cpu(self):
        """It never falls, not even while nobody counts a worker that is ending."""
        self.end("alice")
        with open("/proc/self/stat") as file:
            words = file.read().rpartition(") ")[2].split()
        self.assertNotEqual(("0", "0"), (words[11], words[12]))
        told = [
            self.accounts.metrics(os.getpid(), None, workers)["processes"]["workers"]
            for workers in ([os.getpid()], [])
        ]
        self.assertTrue(told[1]["cpu"] == told[0]["cpu"] > 0, told)
        self.assertEqual(0, told[1]["memory"])

    def test_history(self):
        """The last ones, and not more than are to be kept."""
        for number in range(3):
            self.end(f"lost{number}")
        self.accounts.keep(3, None)
        for number in range(5):
            self.end(f"u{number}")
        self.assertEqual(["u2", "u3", "u4"], self.users(None))
        self.assertEqual(["u3", "u4"], self.users(2))
        self.assertEqual([], self.users(0))
        self.assertEqual(["u2", "u3", "u4"], self.users(100))
        self.accounts.keep(1, None)
        self.assertEqual(["u4"], self.users(None))

    def users(self, most):
        return [each["user"] for each in json.loads(self.accounts.history(most))]
