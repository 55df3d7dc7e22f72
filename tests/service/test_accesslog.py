# SPDX-License-Identifier: GPL-2.0-or-later

"""The file for a line of each connection."""

import os
import resource
import signal

from breezy.tests import TestCaseInTempDir

from ...lpserve.errors import ConfigurationError
from ...lpserve.service import accesslog
from ...lpserve.service.accesslog import AccessLog, check


class TestAccessLog(TestCaseInTempDir):
    def setUp(self):
        super().setUp()
        self.path = os.path.join(self.test_dir, "log")
        self.log = AccessLog()
        self.addCleanup(self.log.close)

    def content(self):
        with open(self.path, "rb") as file:
            return file.read()

    def test_none(self):
        self.log.use(None)
        self.log.write("one")
        self.log.reopen()
        self.assertEqual((None, 0), (self.log.status(), self.log.lost))

    def test_half_a_line(self):
        """What a full disk has cut stays a line of its own."""
        self.log.use(self.path)
        self.log.write("a" * 60)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        self.addCleanup(signal.signal, signal.SIGXFSZ, ignored)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        try:
            self.log.write("b" * 60)
            self.log.write("c")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        self.assertEqual(2, self.log.lost)
        self.assertContainsString(self.log.fault, "cannot be written: ")
        self.log.write("d")
        self.assertEqual("", self.log.fault)
        expected = b"%b\n%b\nd\n" % (b"a" * 60, b"b" * 39)
        self.assertEqual(expected, self.content())

    def test_cannot_be_opened(self):
        """It is tried again, but not for each line."""
        os.mkdir(self.path)
        self.log.use(self.path)
        self.assertEqual("cannot be opened: Is a directory", self.log.fault)
        os.rmdir(self.path)
        self.log.write("one")
        self.assertFalse(os.path.exists(self.path))
        self.overrideAttr(accesslog, "RETRY", 0.0)
        self.log.reopen()
        self.log.write("two")
        self.assertEqual((b"two\n", 1), (self.content(), self.log.lost))

    def test_link(self):
        """One that was put in its place later is not followed."""
        os.symlink("elsewhere", self.path)
        self.log.use(self.path)
        self.log.write("one")
        self.assertFalse(os.path.exists("elsewhere"))
        self.assertEqual(1, self.log.lost)

    def test_writable_by_others(self):
        with open(self.path, "w"):
            pass
        os.chmod(self.path, 0o666)
        self.log.use(self.path)
        self.assertEqual("cannot be opened: it is writable by others", self.log.fault)

    def test_fifo(self):
        """One whose reader has gone, or does not keep up, holds nothing up."""
        os.mkfifo(self.path)
        reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        self.log.use(self.path)
        for _ in range(100):
            self.log.write("x" * 1000)
        self.assertGreater(self.log.lost, 0)
        self.assertContainsString(self.log.fault, "cannot be written: ")
        lost = self.log.lost
        os.close(reader)
        self.log.write("x")
        self.log.write("x")
        self.assertEqual(lost + 2, self.log.lost)


class TestCheck(TestCaseInTempDir):
    def test_inside(self):
        """Under any name, and below the part of the root that all users share."""
        os.makedirs("served/alice")
        os.symlink("served", "link")
        here = self.test_dir
        for root in (f"{here}/served", f"{here}/link", f"{here}/served/%u"):
            for path in (f"{here}/served/log", f"{here}/link/alice/log"):
                self.assertRaises(ConfigurationError, check, path, root)
            check(f"{here}/log", root)
            check(f"{here}/servedtoo", root)
        check(None, "/")
