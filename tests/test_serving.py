# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""What a connection is served from."""

import os

from breezy.tests import TestCaseInTempDir

from ..lpserve.errors import ConfigurationError
from ..lpserve.serving import root_of


class TestRootOf(TestCaseInTempDir):
    def setUp(self):
        super().setUp()
        os.makedirs("srv/alice/100%")

    def path(self, *names):
        return os.path.join(self.test_dir, "srv", *names)

    def test_plain(self):
        self.assertEqual(self.path(), root_of(self.path(), "alice"))

    def test_user(self):
        self.assertEqual(self.path("alice"), root_of(self.path("%u"), "alice"))

    def test_percent(self):
        self.assertEqual(
            self.path("alice", "100%"), root_of(self.path("%u", "100%%"), "alice")
        )

    def refused(self, directory, expected):
        error = self.assertRaises(ConfigurationError, root_of, directory, "alice")
        self.assertIn(expected, str(error))

    def test_none(self):
        self.refused(None, "lpserve.directory")

    def test_missing(self):
        self.refused(self.path("bob"), "there is no directory")

    def test_unknown_token(self):
        self.refused(self.path("%h"), "only %u and %%")
