# SPDX-License-Identifier: GPL-2.0-or-later

"""Whether code has changed since a process has begun."""

import importlib
import os
import sys

from breezy.tests import TestCaseInTempDir

from ..lpserve.codestamp import LoadedCode


class TestLoadedCode(TestCaseInTempDir):
    def setUp(self):
        super().setUp()
        self.overrideAttr(sys, "path", [self.test_dir, *sys.path])
        with open("stampedmodule.py", "w") as file:
            file.write("one = 1\n")
        importlib.invalidate_caches()
        importlib.import_module("stampedmodule")
        self.addCleanup(sys.modules.pop, "stampedmodule")
        self.code = LoadedCode()

    def test_other_file(self):
        """What has not been imported does not matter."""
        with open("othermodule.py", "w") as file:
            file.write("one = 1\n")
        self.assertFalse(self.code.has_changed())

    def test_replaced(self):
        """A package manager gives the new file whatever time it likes."""
        before = os.stat("stampedmodule.py")
        with open("new", "w") as file:
            file.write("one = 2\n")
        os.utime("new", ns=(before.st_atime_ns, before.st_mtime_ns))
        os.rename("new", "stampedmodule.py")
        self.assertTrue(self.code.has_changed())

    def test_removed(self):
        os.unlink("stampedmodule.py")
        self.assertTrue(self.code.has_changed())
