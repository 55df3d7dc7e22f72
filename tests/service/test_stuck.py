# SPDX-License-Identifier: GPL-2.0-or-later

"""`StuckWorkers`, with real workers that answer pings or do not."""

import os

from ...lpserve.service import stuck
from ...lpserve.service.stuck import MAX_SILENT, StuckWorkers
from .test_pool import PoolTestCase


class TestStuck(PoolTestCase):
    def setUp(self):
        super().setUp()
        self.overrideAttr(stuck, "GRACE", 0.0)
        self.stuck = StuckWorkers(self.pool, self.directory)

    def make_spare(self):
        self.pool.resize(1)
        self.fork()
        (worker,) = self.pool.spares
        return worker

    def test_spare(self):
        """FAULT 50: a spare worker that does not answer is killed, and replaced."""
        worker = self.make_spare()
        for _ in range(MAX_SILENT):
            self.stuck.end_spares()
            self.assertEqual((1, 0, 0, 0), self.counts())
        self.stuck.end_spares()
        self.assertEqual((0, 0, 1, 0), self.counts())
        self.run_until(lambda: worker.child is None, "it was reaped")
        self.assertEqual((0, 0, 1, 0), self.counts())

    def test_it_takes_time(self):
        """It is not killed before `GRACE` is over, however often the service looks."""
        self.overrideAttr(stuck, "GRACE", 60.0)
        self.make_spare()
        for _ in range(10 * MAX_SILENT):
            self.stuck.end_spares()
        self.assertEqual((1, 0, 0, 0), self.counts())

    def test_answers(self):
        worker = self.make_spare()
        for _ in range(3 * MAX_SILENT):
            self.stuck.end_spares()
            self.pool._handle_message(worker, {"kind": "pong"})
        self.assertEqual((1, 0, 0, 0), self.counts())

    def test_a_connection_that_is_not_opened(self):
        """A worker that neither connects nor gives up in time is killed."""
        self.pool.resize(1)
        self.fork()
        connection = self.submit()
        self.stuck.end_connections(60.0)
        self.stuck.end_connections(60.0)
        self.assertEqual([], self.ended)
        self.assertTrue(os.path.isdir(connection.path))
        self.stuck.end_connections(-1.0)
        self.assertEqual(["signal", "9"], self.wait_closed(connection)[-1])
        self.assertEqual([], os.listdir(self.directory.connections))

    def test_left(self):
        """FAULT 54: a directory that no process has locked is removed."""
        left, held = (self.directory.make_connection() for _ in range(2))
        left.close()
        self.addCleanup(held.close)
        self.stuck.end_connections(60.0)
        found = os.listdir(self.directory.connections)
        self.assertEqual([os.path.basename(held.path)], found)
