# SPDX-License-Identifier: GPL-2.0-or-later

"""The paths that the settings name."""

import os

from breezy.tests import TestCase, TestCaseInTempDir

from ..lpserve import root
from ..lpserve.errors import ConfigurationError


class TestFind(TestCaseInTempDir):
    def setUp(self):
        super().setUp()
        os.makedirs("srv/alice/100%")

    def path(self, *names):
        return os.path.join(self.test_dir, "srv", *names)

    def test_found(self):
        for directory, found in (
            (self.path(), self.path()),
            (self.path("%u"), self.path("alice")),
            (self.path("%u", "100%%"), self.path("alice", "100%")),
        ):
            self.assertEqual(found, root.find(directory, "alice"))

    def test_refused(self):
        for directory, expected in (
            (None, "lpserve.directory"),
            (self.path("bob"), "there is no directory"),
            (self.path("%h"), "only %u and %%"),
        ):
            error = self.assertRaises(ConfigurationError, root.find, directory, "alice")
            self.assertIn(expected, str(error))


class TestPaths(TestCase):
    def test_shared_part(self):
        for directory, above in (
            ("/srv/bzr", "/srv/bzr"),
            ("/srv/%u", "/srv"),
            ("/srv/bzr-%u/%u", "/srv"),
            ("/%u", "/"),
            ("/srv/100%%u/x", "/srv/100%u/x"),
            ("/srv/%%%u/x", "/srv"),
        ):
            self.assertEqual(above, root.shared_part(directory), directory)

    def test_parse(self):
        self.assertEqual(
            [("/a:b", True), ("/c", False), (os.path.expanduser("~/d"), True)],
            root.parse_sandbox_paths(["/a:b", "/c:ro", "~/d"]),
        )

    def test_relative(self):
        for entry in ("a", "", ":ro", "rw:/a"):
            error = self.assertRaises(
                ConfigurationError, root.parse_sandbox_paths, [entry]
            )
            self.assertIn("lpserve.sandbox_paths must be absolute", str(error))
