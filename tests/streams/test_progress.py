# SPDX-License-Identifier: GPL-2.0-or-later

"""Whether a process does anything."""

import subprocess
import sys
from unittest import mock

from breezy.tests import TestCase

from ...lpserve.streams import progress


class TestProgress(TestCase):
    def stands_still(self, *command):
        self.overrideAttr(progress, "_STILL", 0.3)
        with subprocess.Popen(command) as process:
            watched = progress.Progress(process.pid)
            try:
                found = {watched.stands_still()}
                for _ in range(2):
                    self.assertRaises(
                        subprocess.TimeoutExpired, process.wait, timeout=0.5
                    )
                    found.add(watched.stands_still())
            finally:
                process.kill()
        return found

    def test_busy(self):
        """It is seen in another sandbox, too, where /proc does not show it."""
        hidden = mock.Mock(side_effect=FileNotFoundError)
        with mock.patch.object(progress, "open", hidden, create=True):
            busy = self.stands_still(sys.executable, "-c", "while True: pass")
        self.assertEqual({False}, busy)

    def test_still(self):
        self.assertIn(True, self.stands_still("sleep", "600"))
