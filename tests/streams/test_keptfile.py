# SPDX-License-Identifier: GPL-2.0-or-later

"""The files of kept streams."""

import os

from ...lpserve.streams import keptfile
from ...lpserve.streams.keptfile import HEADER, KeptFile, NewFile
from .keptcase import KEY, KeptCase


class TestFile(KeptCase):
    def test_sizes(self):
        file = NewFile("streams", KEY, HEADER + 20)
        self.addCleanup(file.close)
        file.add(b"x" * 15)
        self.assertRaises(OSError, file.add, b"")
        reader = KeptFile("streams", KEY, os.getpid())
        self.addCleanup(reader.close)
        self.assertEqual(HEADER + 20, reader.whole_frames(HEADER))
        self.assertIs(None, reader.end)
        self.assertFalse(reader.is_abandoned)
        file._write(keptfile._header(2), 0)  # half of what is written next
        self.assertIs(None, reader.end)
        self.assertEqual(20, file.complete())
        self.assertEqual(HEADER + 20, reader.end)
        self.assertRaises(OSError, NewFile, "streams", KEY, 100)
        file.abandon()
        self.assertTrue(reader.is_abandoned)
