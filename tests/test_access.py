# SPDX-License-Identifier: GPL-2.0-or-later

"""Access rules: what a file says."""

from breezy.tests import TestCase

from ..lpserve.access import LEVELS, NO_LINE, owner
from ..lpserve.accesssyntax import parse

EXAMPLE = b"""\
# Of DESIGN, with more.
[groups]
devels = beta, gamma delta
chiefs = gamma
[/]
* = r
[/project]   ; a comment
@devels = rw   # those
alice = r
mallory =
@chiefs =
[/home/%u]
%u = rw
[/secret/%%/x]
* =
gamma = r
[/secret]
* =
"""


class TestDecisions(TestCase):
    def setUp(self):
        super().setUp()
        self.rules = parse(EXAMPLE, "FILE")

    def decide(self, user, path):
        found = self.rules.for_user(user).decide(path)
        return LEVELS[found.level], found.line

    def test_example(self):
        for user, path, level, line in (
            ("zoe", "", "r", 6),
            ("zoe", "project", "r", 6),
            ("zoe", "projects", "r", 6),
            ("beta", "project", "rw", 8),
            ("beta", "project/a/b", "rw", 8),
            # The user's own line beats groups, groups beat *.
            ("alice", "project/a", "r", 9),
            ("mallory", "project", "none", 10),
            # Of several groups the most generous.
            ("gamma", "project", "rw", 8),
            ("alice", "home/alice/x", "rw", 13),
            ("alice", "home/bob/x", "r", 6),
            ("alice", "home", "r", 6),
            ("zoe", "secret/%/x", "none", 15),
            ("gamma", "secret/%/x/y", "r", 16),
            ("gamma", "secret/%", "none", 18),
            # What is in .bzr and .git belongs to the directory they are in.
            ("beta", "project/.bzr/branch/x", "rw", 8),
            ("beta", "project/.git", "rw", 8),
            ("beta", ".bzr/project", "r", 6),
            ("beta", "project/a.bzr/b", "rw", 8),
        ):
            self.assertEqual((level, line), self.decide(user, path), (user, path))

    def test_no_line(self):
        user = parse(b"[/a]\nbob = r\n", "FILE").for_user("alice")
        self.assertEqual(NO_LINE, user.decide("a"))
        self.assertEqual(NO_LINE, user.decide(""))

    def test_nearest_section_with_a_line(self):
        """A section without a line for the user is passed over."""
        rules = parse(b"[/]\nalice = rw\n[/a]\nbob = r\n[/a/b]\n* =\n", "FILE")
        user = rules.for_user("alice")
        self.assertEqual(2, user.decide("a").line)
        self.assertEqual(6, user.decide("a/b").line)

    def test_user_in_the_path(self):
        """It is any name, each time the same; a plain name is looked at first."""
        text = b"[/h/%u/x-%u]\n%u = rw\n* = r\nbob =\n[/h/carl/x-carl]\ncarl = r\n"
        rules = parse(text, "FILE")
        for user, path, level in (
            ("alice", "h/alice/x-alice", "rw"),
            ("alice", "h/bob/x-bob/y", "r"),
            ("alice", "h/bob/x-alice", "none"),
            ("alice", "h/alice/x-", "none"),
            ("alice", "h/alice", "none"),
            ("bob", "h/bob/x-bob", "none"),
            ("carl", "h/carl/x-carl", "r"),
            ("alice", "h/carl/x-carl", "r"),
        ):
            found = rules.for_user(user).level(path)
            self.assertEqual(level, LEVELS[found], (user, path))

    def test_case_and_normal_forms(self):
        """Names are what the file system has: another spelling is another name."""
        rules = parse("[/caf\u00e9]\nalice = r\n[/A]\nalice=rw\n".encode(), "FILE")
        user = rules.for_user("alice")
        self.assertEqual(
            [1, 0, 2, 0], [user.level(p) for p in ("caf\u00e9", "cafe\u0301", "A", "a")]
        )
        self.assertEqual(0, rules.for_user("Alice").level("A"))

    def test_above(self):
        text = b"[groups]\ng = bob\n[/a/b/c]\n@g = r\n[/h/%u/x]\n%u = r\n"
        text += b"[/d/e]\n* = r\nbob =\n"
        rules = parse(text, "FILE")
        for user, expected in (
            ("bob", {"", "a", "a/b", "h", "h/bob"}),
            ("alice", {"", "d", "h", "h/alice"}),
        ):
            each = rules.for_user(user)
            paths = ("", "a", "a/b", "a/b/c", "d", "d/e", "h", "h/bob", "h/alice")
            found = {path for path in (*paths, "a/.bzr", "ab") if each.above(path)}
            self.assertEqual(expected, found, user)

    def test_least(self):
        """Who moves a directory moves what is below it."""
        text = b"[/]\n* = rw\n[/a/b]\nbob =\n[/c/%u]\n* = r\n%u = rw\n"
        rules = parse(text, "FILE")
        for user, path, level in (
            ("bob", "a", 0),
            ("bob", "a/b", 0),
            ("bob", "a/bc", 2),
            ("alice", "a", 2),
            ("alice", "c", 1),
            ("alice", "c/alice", 2),
            ("alice", "c/bob", 1),
            ("alice", "", 1),
            ("bob", "a/.bzr/x", 2),
        ):
            found = rules.for_user(user).least(path)
            self.assertEqual(level, found, (user, path))

    def test_owner(self):
        for path, expected in (
            ("a/.bzr", "a"),
            ("a/.bzr/branch/.git", "a"),
            (".git/x", ""),
            ("a/b.git", "a/b.git"),
            ("", ""),
        ):
            self.assertEqual(expected, owner(path))
