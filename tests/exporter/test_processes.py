# SPDX-License-Identifier: GPL-2.0-or-later

"""What /proc tells of processes."""

import os
import signal
import subprocess

from breezy.tests import TestCase

from ...lpserve.exporter.processes import measure


class TestMeasure(TestCase):
    """This process is the service; a child of it is the zygote."""

    def start(self):
        child = subprocess.Popen(["sleep", "1000"])
        self.addCleanup(child.wait)
        self.addCleanup(child.send_signal, signal.SIGKILL)
        return child.pid

    def test_measured(self):
        zygote = self.start()
        before = measure(os.getpid(), zygote)
        worker = self.start()
        after = measure(os.getpid(), zygote)
        for name in ("service", "zygote"):
            self.assertTrue(after.pss[name] > 1000, after)
        self.assertTrue(after.pss["workers"] > before.pss["workers"], worker)
        self.assertTrue(after.max_descriptors > 0)

    def test_out_of_time(self):
        """Those that were not read count as the others."""
        zygote = self.start()
        one = measure(os.getpid(), self.start(), -1).pss["workers"]
        for _ in range(9):
            self.start()
        all_of_them = measure(os.getpid(), zygote, -1).pss["workers"]
        self.assertTrue(all_of_them > 4 * one, (one, all_of_them))

    def test_other_processes(self):
        """Pids of another namespace, or none, measure nothing."""
        for pids in ((1, os.getpid()), (os.getpid(), 1), (None, None), (0, -1)):
            found = measure(*pids)
            self.assertEqual(({}, None), (found.pss, found.max_descriptors), pids)
