# SPDX-License-Identifier: GPL-2.0-or-later

"""Which plug-ins come with Breezy, and which do not."""

import os
import sys
import types
from importlib import metadata

import breezy
from breezy.tests import TestCase

from ..lpserve import plugins


class TestPlugins(TestCase):
    def load(self, name, path):
        """Have the plug-in *name* loaded, from *path*."""
        module = types.ModuleType(f"breezy.plugins.{name}")
        module.__path__ = [path]
        self.overrideAttr(sys, "modules", {**sys.modules, module.__name__: module})

    def test_bundled(self):
        self.assertTrue(plugins.is_bundled("launchpad"))
        self.assertFalse(plugins.is_bundled("lpserve"))

    def test_known(self):
        """A package of a distribution does not say which files are in it."""
        self.assertEqual(set(), plugins._listed() - {"__pycache__"} - plugins._KNOWN)

    def test_newer(self):
        """What comes with a later Breezy is in the list of its files."""
        files = [metadata.PackagePath("breezy/plugins/newer/__init__.py")]
        self.overrideAttr(metadata, "files", lambda name: files)
        plugins._listed.cache_clear()
        self.addCleanup(plugins._listed.cache_clear)
        self.assertTrue(plugins.is_bundled("newer"))

    def test_foreign(self):
        """One of our own in the place of one of Breezy's counts as foreign."""
        before = plugins.foreign()
        self.load("something", "/srv/something")
        self.assertEqual(sorted([*before, "something"]), plugins.foreign())
        place = os.path.join(os.path.dirname(breezy.__file__), "plugins")
        self.load("email", os.path.join(place, "email"))
        self.assertNotIn("email", plugins.foreign())
        self.load("email", "/home/bzr/.config/breezy/plugins/email")
        self.assertIn("email", plugins.foreign())

    def test_ours(self):
        self.assertNotIn("lpserve", plugins.foreign())
        self.assertIn(
            os.path.dirname(os.path.dirname(plugins.__file__)), plugins.directories()
        )
