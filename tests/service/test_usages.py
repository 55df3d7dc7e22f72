# SPDX-License-Identifier: GPL-2.0-or-later

"""CPU time and memory of many processes."""

from breezy.tests import TestCase

from ...lpserve.service import usages
from ...lpserve.service.usages import Usages


class TestUsages(TestCase):
    def test_turns(self):
        """New ones first, then by turns; those that have ended are forgotten."""
        asked = []

        def usage(pid):
            asked.append(pid)
            return 0.5, pid

        self.overrideAttr(usages, "usage", usage)
        found = Usages()
        found.MOST = 2
        self.assertEqual((1.0, 3), found.read([1, 2]))
        self.assertEqual((2.0, 10), found.read([1, 2, 3, 4]))
        self.assertEqual({3, 4}, set(asked[2:]))
        self.assertEqual((2.0, 10), found.read([1, 2, 3, 4]))
        self.assertEqual({1, 2}, set(asked[4:]))
        self.assertEqual((1.0, 7), found.read([3, 4]))
        self.assertEqual((0.0, 0), found.read([]))
