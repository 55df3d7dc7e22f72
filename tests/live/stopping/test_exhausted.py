# SPDX-License-Identifier: GPL-2.0-or-later

"""A service that has no descriptors left is told to stop, or to reload."""

import re
import resource
import signal

from ...harness import DEADLINE, LiveTestCase, limit_descriptors, wait_until
from ..spawning.socketcase import Link


class TestExhausted(LiveTestCase):
    """FAULT 48: a shutdown needs no new descriptor; a reload fails without one."""

    def start(self):
        """Start a service, and be connected to its socket."""
        self.start_service()
        self.rest()
        self.link = self.connect_link()
        self.assertEqual("ok", self.link.ask(b"hello")[0])

    def connect_link(self):
        made = Link(self.runtime)
        self.addCleanup(made.close)
        return made

    def exhaust(self, count=0):
        """Leave the service *count* descriptors to open; its limits before."""
        return limit_descriptors(self.service.pid, count)

    def assertEnds(self):
        self.assertEqual(0, self.service.wait(DEADLINE), self.log_text())
        self.assertNotIn("Traceback", self.log_text())
        self.assertNotIn("unexpected", self.log_text())

    def test_shutdown(self):
        """Connections finish."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self.start()
            start = len(self.log_text())
            opened = self.serve("alice", "bob")
            self.exhaust()
            self.service.send_signal(number)
            self.wait_for_log("stopping; 2 connections to finish", start)
            self.finish(*opened)
            self.assertEnds()

    def test_shutdown_with_clients_that_cannot_be_accepted(self):
        """More of them than there are descriptors when all children have ended."""
        self.start_service()
        self.rest()
        start = len(self.log_text())
        self.exhaust()
        waiting = [self.connect_link() for _ in range(50)]
        # An idle client is given up for another, if any could be accepted.
        told = "cannot accept a connection: Too many|too many connections"
        wait_until(lambda: re.search(told, self.log_text(start)), "there are none left")
        self.service.send_signal(signal.SIGTERM)
        self.assertEnds()
        for each in waiting:
            self.assertIn(each.answer()[:2], ([], ["error", "busy"]))
            each.close()

    def test_reload(self):
        """A reload fails until there are enough descriptors."""
        self.start()
        limits = self.exhaust()
        self.assertEqual(["error", "failed"], self.link.ask(b"reload")[:2])
        start = len(self.log_text())
        self.service.send_signal(signal.SIGHUP)
        self.wait_for_log("Too many open files", start)
        for count in range(4):
            resource.prlimit(self.service.pid, resource.RLIMIT_NOFILE, limits)
            self.rest()
            self.exhaust(count)
            self.assertIn(self.link.ask(b"reload")[0], ("ok", "error"))
        resource.prlimit(self.service.pid, resource.RLIMIT_NOFILE, limits)
        self.assertEqual(["ok"], self.link.ask(b"reload"))
        self.check_serves()
        self.assertIn('"faults": 0', self.link.ask(b"status")[1])
        self.service.send_signal(signal.SIGTERM)
        self.assertEnds()
