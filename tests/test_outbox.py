# SPDX-License-Identifier: GPL-2.0-or-later

"""What becomes of messages to a process that has ended."""

import os

from breezy.tests import TestCase

from ..lpserve import channel
from ..lpserve.outbox import Outbox


class TestOutbox(TestCase):
    def test_ended(self):
        """Descriptors are closed, before that is known and after."""
        ours, theirs = channel.pair()
        self.addCleanup(ours.close)
        theirs.close()
        outbox = Outbox(None, ours)
        for _ in range(2):
            reader, writer = os.pipe()
            outbox.send("adopt", (writer,))
            with open(reader, "rb") as file:
                os.set_blocking(reader, False)
                self.assertEqual(b"", file.read())
