# SPDX-License-Identifier: GPL-2.0-or-later

"""`Shortages` tells what ran out from bugs."""

import errno
import logging

from breezy.tests import TestCase

from ...lpserve.service.shortage import QUIET, Shortages


class TestShortages(TestCase):
    def setUp(self):
        super().setUp()
        self.now = 100.0
        self.lines = []
        handler = logging.Handler()
        handler.emit = lambda record: self.lines.append(record.getMessage())
        logger = logging.getLogger("lpserve")
        logger.addHandler(handler)
        self.addCleanup(logger.removeHandler, handler)
        self.shortages = Shortages(lambda: self.now)

    def test_bugs(self):
        for error in (ValueError(), OSError(), FileNotFoundError(errno.ENOENT, "no")):
            self.assertFalse(self.shortages.explain(error))
        self.assertEqual([], self.lines)

    def test_told_once(self):
        """FAULT 58: each shortage is logged once in `QUIET` seconds."""
        full, files = OSError(errno.ENOSPC, "full"), OSError(errno.EMFILE, "many")
        for _ in range(3):
            self.assertTrue(self.shortages.explain(full))
            self.assertTrue(self.shortages.explain(files))
        told = [
            "No space left on device: an operation was skipped",
            "Too many open files: an operation was skipped",
        ]
        self.assertEqual(told, self.lines)
        self.now += QUIET
        self.assertTrue(self.shortages.explain(files))
        self.assertEqual([*told, told[1]], self.lines)

    def test_memory(self):
        self.assertTrue(self.shortages.explain(MemoryError()))
        self.assertEqual(
            ["Cannot allocate memory: an operation was skipped"], self.lines
        )
