# SPDX-License-Identifier: GPL-2.0-or-later

"""The page on trouble has every message of the source, and no other."""

from breezy.tests import TestCase

from ..harness import PLUGIN
from .sources import load, pages

#: What has to be done when a test fails.
HINT = "doc/troubleshooting.rst has to be changed with the source"


class TestMessages(TestCase):
    def setUp(self):
        super().setUp()
        self.messages = load("messages")
        self.entries = self.messages.read_entries(pages().get("troubleshooting", ""))
        self.explained = [text for texts, _ in self.entries for text in texts]

    def collected(self):
        found = self.messages.collect_messages(PLUGIN)
        return {**found, **self.messages.collect_refusals(PLUGIN)}

    def test_complete(self):
        found = self.collected()
        self.assertTrue(len(found) > 200, "the source is not understood")
        missing = sorted(
            f"{where}: {text}"
            for text, where in found.items()
            if text not in self.explained
        )
        self.assertEqual([], missing, HINT)

    def test_current(self):
        found = self.collected()
        stale = [text for text in self.explained if text not in found]
        self.assertEqual([], stale, HINT)

    def test_each_once_and_with_help(self):
        twice = {text for text in self.explained if self.explained.count(text) > 1}
        self.assertEqual(set(), twice)
        for texts, help in self.entries:
            self.assertNotEqual("", help, texts)

    def test_findings_have_remedies(self):
        found = self.messages.collect_findings(PLUGIN)
        self.assertTrue(len(found) > 50, "the source is not understood")
        self.assertEqual([], [each for each in found if not each[2]])

    def test_collecting(self):
        """A message in an exception, in a record, and returned is found."""
        normalise = self.messages.normalise
        self.assertEqual("cannot open …: …", normalise("cannot open %s:\n  %s"))
        found = self.collected()
        for text in (
            "there is no directory … to serve",
            "access rules: …; …",
            "a rule before the first section",
            "the service… does not answer",
        ):
            self.assertIn(text, found)
