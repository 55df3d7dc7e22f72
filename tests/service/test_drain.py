# SPDX-License-Identifier: GPL-2.0-or-later

"""When connections are refused after ``drain``."""

import os

from breezy.tests import TestCaseInTempDir

from ...lpserve.drained import write_drained
from ...lpserve.service.drain import Drain
from ...lpserve.service.loop import Loop
from ...lpserve.wire import RequestError
from .turning import turn


class TestDrain(TestCaseInTempDir):
    """`drain.Drain`."""

    def setUp(self):
        super().setUp()
        os.chmod(".", 0o700)
        self.loop = Loop(self.fail)
        self.addCleanup(self.loop.close)
        self.begun = []
        self.drain = Drain(self.loop, os.getcwd(), self.begun.append)

    def refused(self):
        try:
            self.drain.check()
        except RequestError:
            return True
        return False

    def test_at_once(self):
        """Without a load balancer."""
        self.drain.begin("soon")
        self.assertTrue(self.refused())
        self.drain.begin("later")
        self.assertEqual(["soon", "later"], self.begun)
        self.drain.end()
        self.assertFalse(self.refused())

    def test_noticed_first(self):
        """What a load balancer sends until it has asked again is served."""
        self.drain.notice = 0.2
        self.drain.begin("soon")
        self.drain.begin("later")
        self.assertEqual("later", self.drain.message)
        self.assertEqual((False, []), (self.refused(), self.begun))
        turn(self.loop, lambda: self.begun)
        self.assertEqual((True, ["later"]), (self.refused(), self.begun))

    def test_back_before(self):
        self.drain.notice = 0.05
        self.drain.begin("soon")
        self.drain.end()
        self.drain.notice = 600.0
        self.drain.begin("again")
        over = []
        self.loop.call_later(0.1, lambda: over.append(True))
        turn(self.loop, lambda: over)
        self.assertEqual((False, []), (self.refused(), self.begun))

    def test_from_the_start(self):
        """A service that starts on a host that is out of service refuses at once."""
        write_drained(os.getcwd(), "soon")
        self.drain.read()
        self.drain.notice = 600.0
        self.assertTrue(self.refused())
