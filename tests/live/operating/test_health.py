# SPDX-License-Identifier: GPL-2.0-or-later

"""``lp-serve-control health``: what a load balancer asks."""

import os
import shutil
import signal

from ...harness import LiveTestCase


class TestHealth(LiveTestCase):
    def assertHealth(self, status, text):
        done = self.run_program(self.brz("lp-serve-control", "health"))
        self.assertEqual(status, done.returncode, done)
        self.assertContainsString((done.stdout + done.stderr).decode(), text)

    def test_life(self):
        """Before a service is there, while it is, drained, and stopped dead."""
        self.assertHealth(1, "no service")
        service = self.start_service()
        self.assertHealth(0, "healthy\n")
        self.ask("drain", "until noon")
        self.assertHealth(1, "brz lp-serve-control: until noon\n")
        self.ask("resume")
        self.wait_for_totals(ended=1)
        service.send_signal(signal.SIGSTOP)
        self.assertHealth(1, "does not answer")
        service.send_signal(signal.SIGCONT)

    def test_nothing_to_serve(self):
        """Where users have directories, those are not looked at."""
        self.start_service(f"--directory={self.root}/%u")
        self.assertHealth(0, "healthy\n")
        shutil.move(self.root, self.root + "-away")
        self.assertHealth(1, "there is no directory ")
        os.mkdir(self.root)
        self.assertHealth(0, "healthy\n")
