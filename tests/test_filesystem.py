# SPDX-License-Identifier: GPL-2.0-or-later

"""Which file systems are those of a network."""

import errno
import os

from breezy.tests import TestCaseInTempDir

from ..lpserve import filesystem


class TestNetworkFileSystem(TestCaseInTempDir):
    def test_here(self):
        """That of a kernel's own /proc is no network's; its number is what is read."""
        self.assertEqual(None, filesystem.network_file_system("/proc"))
        proc = 0x9FA0  # PROC_SUPER_MAGIC of linux/magic.h
        self.overrideAttr(filesystem, "NETWORK", {proc: "a network"})
        self.assertEqual("a network", filesystem.network_file_system("/proc"))

    def test_missing(self):
        missing = os.path.join(self.test_dir, "missing")
        error = self.assertRaises(OSError, filesystem.network_file_system, missing)
        self.assertEqual(errno.ENOENT, error.errno)
