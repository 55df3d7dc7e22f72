# SPDX-License-Identifier: GPL-2.0-or-later

"""More connections than there are places for."""

import os

from breezy.tests.scenarios import load_tests_apply_scenarios

from ....lpserve.service.admission import FULL
from ...harness import BY_DOOR, LiveTestCase, wait_until

load_tests = load_tests_apply_scenarios


class TestQueue(LiveTestCase):
    scenarios = BY_DOOR

    def wait_for_queue(self, length):
        wait_until(lambda: self.status()["workers"]["queued"] == length, "the queue")

    def test_fair(self):
        """Who has fewer connections is served first; in the end all are."""
        self.configure(max_workers=2, queue_timeout=29)
        self.start_service()
        opened = [self.connect("alice").open() for _ in range(2)]
        more, other = self.ask_worker("alice"), self.ask_worker("bob")
        self.wait_for_queue(2)
        for asked in (other, more):
            self.finish(opened.pop(0))
            self.assertEqual("ok", asked.wait()[0], asked.answer)
            opened.append(asked.open())
        self.finish(*opened)

    def test_refused(self):
        """After queue_timeout; a user, and an address, that have too many at once."""
        self.configure(
            max_workers=3,
            max_workers_per_user=2,
            max_workers_per_address=2,
            queue_timeout=0.05,
        )
        self.start_service()
        here, there = "192.0.2.1 50000 22", "2001:db8::1 50000 22"
        opened = [
            self.connect("alice", SSH_CLIENT=here).open(),
            self.connect("bob", SSH_CLIENT=here).open(),
        ]
        for user, client, text in (
            ("carol", here, "for this address"),
            ("alice", there, None),
            ("alice", there, FULL),
        ):
            asked = self.connect(user, SSH_CLIENT=client)
            if text is None:
                opened.append(asked.open())
            else:
                self.assertEqual(["error", "busy"], asked.answer[:2])
                self.assertContainsString(asked.answer[2], text)
        self.assertEqual({"busy": 2}, self.status()["refused"])
        self.finish(*opened)

    def test_drained(self):
        """Who waits is refused, also if an administrator has written the file."""
        self.configure(max_workers=1, queue_timeout=29)
        self.start_service()
        first = self.connect("alice").open()
        waiting = self.ask_worker("bob")
        self.wait_for_queue(1)
        with open(os.path.join(self.runtime, "drained"), "w") as file:
            file.write("at noon\n")
        self.assertEqual(["error", "draining", "at noon"], waiting.wait())
        self.finish(first)

    def test_client_leaves(self):
        """It leaves the queue, and whoever waits behind it is next."""
        self.configure(max_workers=1, queue_timeout=29)
        self.start_service()
        first = self.connect("alice").open()
        leaving = self.ask_worker("bob")
        self.wait_for_queue(1)
        leaving.conversation.close()
        leaving.close()
        self.wait_for_queue(0)
        self.assertEqual({"failed": 1}, self.status()["refused"])  # it was not "busy"
        first.close()
        self.assertEqual(["exit", "0"], first.end())
        self.wait_for_totals(ended=1, spawned=1)
