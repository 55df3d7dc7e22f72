# SPDX-License-Identifier: GPL-2.0-or-later

"""Files of keys are replaced as a whole, and nothing leads to another file."""

import os
import stat

from breezy.tests import TestCaseInTempDir

from ...lpserve.installation.editing import EditError, Editor
from .installationcase import read, write


class TestEditor(TestCaseInTempDir):
    def setUp(self):
        super().setUp()
        self.directory = os.path.join(self.test_dir, "keys")
        self.file = os.path.join(self.directory, "alice")
        os.mkdir(self.directory, 0o755)
        os.chmod(self.directory, 0o755)

    def open(self, path=None, **keywords):
        return Editor(path or self.directory, (0, os.geteuid()), **keywords)

    def assertRefused(self, text, call, *args):
        error = self.assertRaises(EditError, call, *args)
        self.assertContainsString(str(error), text)

    def test_replace(self):
        """Mode and owner stay; bytes that are not UTF-8, too."""
        owner = 12345 if os.geteuid() == 0 else os.geteuid()
        with open(self.file, "wb") as file:
            file.write(b"\xff\n")
        os.chmod(self.file, 0o640)
        os.chown(self.file, owner, -1)
        with Editor(self.directory, (0, owner, os.geteuid())) as editor:
            editor.write("alice", editor.read("alice") + "more\n", 0o600)
        with open(self.file, "rb") as file:
            self.assertEqual(b"\xff\nmore\n", file.read())
        found = os.stat(self.file)
        self.assertEqual((0o640, owner), (stat.S_IMODE(found.st_mode), found.st_uid))
        self.assertEqual(["alice"], os.listdir(self.directory))

    def test_failure(self):
        """The file is as it was, and no temporary one is left."""
        write(self.file, "before\n")

        def full(number):
            raise OSError(28, "No space left on device")

        self.overrideAttr(os, "fsync", full)
        with self.open() as editor:
            self.assertRefused("No space left", editor.write, "alice", "x", 0o600)
        self.assertEqual("before\n", read(self.file))
        self.assertEqual(["alice"], os.listdir(self.directory))

    def test_links(self):
        other = os.path.join(self.test_dir, "other")
        write(other, "secret\n")
        os.symlink(other, self.file)
        with self.open() as editor:
            self.assertRefused("alice is a link", editor.read, "alice")
        link = os.path.join(self.test_dir, "link")
        os.symlink(self.directory, link)
        self.assertRefused("link is a link", self.open, link)
        self.assertEqual("secret\n", read(other))

    def test_unsafe(self):
        write(self.file, "x\n", 0o666)
        os.mkfifo(os.path.join(self.directory, "fifo"))
        with self.open() as editor:
            self.assertRefused("alice is writable by others", editor.read, "alice")
            self.assertRefused("fifo is not a file", editor.read, "fifo")
            self.assertIs(None, editor.read("missing"))
        os.chmod(self.directory, 0o775)
        self.assertRefused("chmod go-w", self.open)
        self.assertRefused("owned by uid", Editor, self.directory, (54321,))
        self.assertRefused("No such file", self.open, self.directory + "/missing")

    def test_create(self):
        path = os.path.join(self.test_dir, "made")
        with self.open(path, create=(os.geteuid(), os.getegid())) as editor:
            editor.write("alice", "x\n", 0o600)
        self.assertEqual(0o700, stat.S_IMODE(os.stat(path).st_mode))
        mode = os.stat(os.path.join(path, "alice")).st_mode
        self.assertEqual(0o600, stat.S_IMODE(mode))
