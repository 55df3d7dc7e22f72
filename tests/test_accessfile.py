# SPDX-License-Identifier: GPL-2.0-or-later

"""The file of access rules: when it is read, and when it is not trusted."""

import os

from breezy.tests import TestCaseInTempDir

from ..lpserve import accessfile
from ..lpserve.access import AccessError
from ..lpserve.accessfile import AccessFile, find_pretences

GOOD, OTHER, BAD = b"[/]\nalice = r\n", b"[/]\nalice = rw\n", b"[/]\nalice = w\n"


class AccessFileCase(TestCaseInTempDir):
    def setUp(self):
        super().setUp()
        os.mkdir("served")
        self.served = os.path.join(self.test_dir, "served")
        self.path = os.path.join(self.test_dir, "access.conf")

    def write(self, content, path=None):
        path = path or self.path
        with open(path, "wb") as file:
            file.write(content)
        os.chmod(path, 0o640)

    def make(self, path=None):
        return AccessFile(path or self.path, self.served)

    def level(self, file):
        return file.current().for_user("alice").level("x")


class TestReading(AccessFileCase):
    def test_edits(self):
        """One that cannot be used leaves what was there; a good one is seen at once."""
        self.write(GOOD)
        file = self.make()
        self.assertTrue(file.look())
        self.assertEqual(1, self.level(file))
        for change, level, fault in (
            (lambda: self.write(OTHER), 2, ""),
            (lambda: self.write(BAD), 2, "access.conf:2: 'w' is neither"),
            (lambda: self.write(GOOD), 1, ""),
            (lambda: os.unlink(self.path), 1, "No such file"),
            (lambda: self.write(OTHER), 2, ""),
            (lambda: os.chmod(self.path, 0o622), 2, "writable by others (mode 0622)"),
            (lambda: os.chmod(self.path, 0o644), 2, ""),
            (lambda: self.write(b""), 2, "there is no section"),
        ):
            change()
            file.look()
            self.assertContainsString(file.fault, fault)
            self.assertEqual(bool(fault), bool(file.fault), file.fault)
            self.assertEqual(level, self.level(file))

    def test_not_read_again(self):
        self.write(GOOD)
        file = self.make()
        file.look()
        self.overrideAttr(accessfile, "SETTLED", -60.0)
        file.look()
        self.overrideAttr(accessfile.AccessFile, "_read", None)
        self.assertFalse(file.look())
        os.utime(self.path, ns=(1, 1))
        self.assertRaises(TypeError, file.look)

    def test_just_written(self):
        """A second change within the resolution of the clock would look the same."""
        self.write(GOOD)
        file = self.make()
        file.look()
        stamp = file._stamp
        self.write(GOOD[:-2] + b" \n")  # of the same size
        file._stamp = accessfile.stamp_of(os.stat(self.path))
        self.assertNotEqual(stamp, file._stamp)
        self.assertTrue(file.look())
        self.assertEqual(0, self.level(file))

    def test_never_good(self):
        self.write(BAD)
        error = self.assertRaises(AccessError, self.make().current)
        self.assertContainsString(str(error), "access.conf:2: ")
        self.assertNotIn("access.conf", error.public)

    def test_not_trusted(self):
        self.write(GOOD)
        os.mkfifo("fifo", 0o600)
        self.write(GOOD, "served/access.conf")
        os.symlink(self.path, "served/link")
        os.symlink("served/access.conf", "link")
        for name, text in (
            ("fifo", "not a file"),
            ("served", "not a file"),
            ("none", "No such file"),
            ("served/access.conf", "which is served"),
            ("served/link", "which is served"),
            ("link", "which is served"),
        ):
            file = self.make(os.path.join(self.test_dir, name))
            file.look()
            self.assertContainsString(file.fault, text)
        self.overrideAttr(os, "geteuid", lambda: os.getuid() + 1)
        file = self.make()
        file.look()
        wanted = "" if os.getuid() == 0 else "neither to root nor to us"
        self.assertContainsString(file.fault, wanted)

    def test_too_long(self):
        self.write(GOOD + b"#" * accessfile.MOST)
        file = self.make()
        file.look()
        self.assertContainsString(file.fault, "longer than 512 KiB")

    def test_handed_on(self):
        """Another process has the last good rules, and does not read them again."""
        self.write(GOOD)
        self.overrideAttr(accessfile, "SETTLED", -60.0)
        file = self.make()
        file.look()
        other = self.make()
        other.take(file.state(), file.content)
        self.overrideAttr(accessfile.AccessFile, "_read", None)
        self.assertEqual(1, self.level(other))

    def test_handed_on_with_a_fault(self):
        self.write(GOOD)
        file = self.make()
        file.look()
        self.write(BAD)
        file.look()
        other = self.make()
        other.take(file.state(), file.content)
        self.assertEqual(1, self.level(other))
        self.assertContainsString(other.fault, ":2: ")


class TestPretences(AccessFileCase):
    def find(self, text):
        return find_pretences(accessfile.parse(text, "FILE"), self.served)

    def test_shared(self):
        os.makedirs("served/a/.bzr/repository")
        self.write(b"", "served/a/.bzr/repository/shared-storage")
        head = b"[groups]\ng = bob\n[/]\n* = r\nzoe =\n"
        for rules, line in (
            (b"[/a/b]\n* =\n", 7),
            (b"[/a/b/c]\n@g =\n", 7),
            (b"[/a/b]\n* = r\nbob =\n", 8),
            # Nothing above it is theirs, or it hides all of the repository.
            (b"[/a/b]\nzoe =\n", 0),
            (b"[/a]\n* =\n", 0),
            (b"[/b/c]\n* =\n", 0),
            (b"[/a/b]\n* = rw\n", 0),
        ):
            found = self.find(head + rules)
            self.assertEqual(1 if line else 0, len(found), found)
            if line:
                self.assertStartsWith(found[0], f"FILE:{line}: [/a/b")
                self.assertContainsString(found[0], "repository of /a,")
