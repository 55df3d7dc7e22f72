# SPDX-License-Identifier: GPL-2.0-or-later

"""What a predecessor tells of its connections."""

from breezy.tests import TestCase

from ..lpserve import channel
from ..lpserve.succession import in_parts


class TestParts(TestCase):
    """A client chooses the paths in a history: they may be long, and in any script."""

    def send(self, items):
        ours, theirs = channel.pair()
        with ours, theirs:
            for part in in_parts(items):
                channel.send(ours, "history", lines=part)
                yield channel.receive(theirs)[0]["lines"]

    def test_long(self):
        items = ["\u65e5" * number for number in range(1500)]
        parts = list(self.send(items))
        self.assertEqual(items, [each for part in parts for each in part])

    def test_short(self):
        """As few messages as there can be, because each wakes the successor."""
        self.assertEqual([[["it", ""]] * 5000], list(self.send([["it", ""]] * 5000)))
        self.assertEqual([], list(in_parts([])))
