# SPDX-License-Identifier: GPL-2.0-or-later

"""The bytes of a connection."""

import os

from breezy.tests import TestCaseInTempDir

from ...lpserve.serving.medium import PipeMedium


class TestPipeMedium(TestCaseInTempDir):
    """FAULT 32: what has been received is not waited for."""

    def test_buffer(self):
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        os.write(writer, b"hello\nhello\n")
        os.close(writer)
        answers, sink = os.pipe()
        self.addCleanup(os.close, answers)
        medium = PipeMedium(reader, sink, None, 60.0)
        self.assertEqual(b"hello\n", medium._get_line())
        medium._wait_for_bytes_with_timeout(60.0)
        self.assertEqual(b"hello\n", medium._get_line())
        self.assertEqual(b"", medium.read_bytes(10))
        os.close(sink)
