# SPDX-License-Identifier: GPL-2.0-or-later

"""The syntax of access rules."""

from breezy.tests import TestCase

from ..lpserve.access import AccessError
from ..lpserve.accesssyntax import parse


class TestErrors(TestCase):
    def test_lines(self):
        for text, line, words in (
            (b"", 0, "no section"),
            (b"[groups]\na = b\n", 0, "no section"),
            (b"x = r\n", 1, "before the first section"),
            (b"[/]\nx\n", 2, "neither a section nor"),
            (b"[/]\nx = w\n", 2, "'w' is neither rw"),
            (b"[/]\nx = RW\n", 2, "'RW' is neither rw"),
            (b"[/]\n\n[/\n", 3, "ends with ]"),
            (b"[/] x\n", 1, "ends with ]"),
            (b"[project]\n", 1, "begins with a slash"),
            (b"[ /project]\n", 1, "begins with a slash"),
            (b"[]\n", 1, "begins with a slash"),
            (b"[/a/../b]\n", 1, "'..' in a path"),
            (b"[/a/.bzr/b]\n", 1, "belongs to the directory"),
            (b"[/my%20project]\n", 1, "are not encoded"),
            (b"[/%u%u]\n", 1, "twice"),
            (b"[/]\n%u = r\n", 2, "only in a section with %u"),
            (b"[/]\n@x = r\n", 2, "no group 'x'"),
            (b"[/]\na b = r\n", 2, "neither a user"),
            (b"[/]\n = r\n", 2, "neither a user"),
            (b"[groups]\na = @b\n[/]\n", 2, "name of a user"),
            (b"[groups]\n@a = b\n[/]\n", 2, "name of a group"),
            (b"[groups]\na = b\na = c\n[/]\n", 3, "is in line 2 already"),
            (b"[groups]\n[/]\n[groups]\n", 3, "is in line 1 already"),
            (b"[/a]\n[/a/]\n", 2, "is in line 1 already"),
            (b"[/a]\nx = r\nx = rw\n", 3, "is in line 2 already"),
            (b"[/]\nx = r\n\xff\n", 3, "not UTF-8"),
            (b"[/]\n\0 = r\n", 2, "NUL"),
        ):
            error = self.assertRaises(AccessError, parse, text, "FILE")
            self.assertEqual(line, error.line, text)
            self.assertContainsString(str(error), words)
            where = f"FILE:{line}: " if line else "FILE: "
            self.assertContainsString(str(error), where)
            self.assertNotIn("FILE", error.public)

    def test_odd_but_right(self):
        text = b"\xef\xbb\xbf[/a//b/]\r\n  * = r ; x\r\n[/c]d]\n# [x\n;\n[/e#f] # ]\n"
        rules = parse(text + b"[groups]\nempty =\n", "FILE")
        shown = [section.shown for section in rules.sections]
        self.assertEqual(["/a/b", "/c]d", "/e#f"], shown)
        self.assertEqual(1, rules.for_user("x").level("a/b"))
