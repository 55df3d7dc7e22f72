# SPDX-License-Identifier: GPL-2.0-or-later

"""How keys are found among many files, and how the index is renewed."""

import errno
import os

from twisted.internet import defer
from twisted.internet.task import Clock

from ...lpserve.ssh import keydirectory
from ...lpserve.ssh.keys import KeyChecker
from .test_authorizedkeys import make_blob, make_line
from .test_keydirectory import KeyDirectoryCase

#: Files in the directory.
COUNT = 300


class ManyFilesCase(KeyDirectoryCase):
    """A directory of many files, all of which have been read.

    :ivar opened: the names of those that have been read since.
    """

    def setUp(self):
        super().setUp()
        # As if all files had been there for some time.
        self.overrideAttr(keydirectory, "_SETTLED", -60)
        self.opened = []
        real = open

        def opening(name, *args, **keywords):
            self.opened.append(os.path.basename(name))
            return real(name, *args, **keywords)

        keydirectory.open = opening
        self.addCleanup(delattr, keydirectory, "open")
        for number in range(COUNT):
            self.write(f"user{number}", make_line(f"key{number}"))
        self.assertIs(None, self.found("bzr", "nobody's"))
        self.assertEqual(COUNT, len(set(self.opened)))
        self.opened.clear()


class TestIndex(ManyFilesCase):
    """FAULT 40: a file that has not changed is not read again."""

    def test_nothing_read_again(self):
        """Neither for a known key nor for an unknown one."""
        for number in range(0, COUNT, 10):
            user = f"user{number}"
            for account in ("bzr", user):
                self.assertEqual(user, self.found(account, f"key{number}"))
                self.assertIs(None, self.found(account, "nobody's"))
        self.assertEqual([], self.opened)

    def test_changed(self):
        """Only what has changed is read, at the next login."""
        self.write("user1", make_line("new"))
        self.assertIs(None, self.found("bzr", "key1"))
        self.assertEqual("user1", self.found("bzr", "new"))
        self.write("newuser", make_line("new2"))
        self.assertEqual("newuser", self.found("bzr", "new2"))
        path = os.path.join(self.path, "user2")
        os.unlink(path)
        self.assertIs(None, self.found("bzr", "key2"))
        os.rename(os.path.join(self.path, "user3"), path)
        self.assertEqual("user2", self.found("bzr", "key3"))
        os.chmod(path, 0o666)
        self.assertIs(None, self.found("bzr", "key3"))
        self.assertTold("user2 is writable by others")
        os.chmod(path, 0o644)
        self.assertEqual("user2", self.found("bzr", "key3"))
        self.assertEqual({"user1", "newuser", "user2"}, set(self.opened))

    def test_given_to_another(self):
        """A key that moves from one to another, and one that both have then."""
        for number in range(10):
            self.write("user1", make_line(f"mine{number}"))
            self.write("user2", make_line("key1"))
            self.assertEqual("user2", self.found("bzr", "key1"))
            self.write("user1", make_line("key1"))
            self.write("user2", make_line("key2"))
            self.assertEqual("user1", self.found("bzr", "key1"))
            self.write("user2", make_line("key1"))
            # A search for an unknown key looks at all files, and finds both.
            self.assertIs(None, self.found("bzr", "nobody's"))
            self.assertIs(None, self.found("bzr", "key1"))

    def test_steps(self):
        """A renewal looks at a bounded number of files in each step."""
        looks, real = [], self.keys._look_at

        def look_at(user):
            looks[-1] += 1
            return real(user)

        self.keys._look_at = look_at
        for most, change in ((25, False), (3, True)):
            if change:
                for number in range(COUNT):
                    self.write(f"user{number}", make_line(f"other{number}"))
            steps = self.keys.renew()
            for expected in (*[most] * (COUNT // most), 0):
                looks.append(0)
                next(steps, None)
                self.assertEqual(expected, looks[-1])
        self.assertIs(None, next(steps, None))

    def test_same_size_and_time(self):
        """A file that was just changed is read again, even with the same stat."""
        keydirectory._SETTLED = 60
        path = self.write("user1", make_line("old"))
        self.assertEqual("user1", self.found("bzr", "old"))
        real, before = os.stat, os.stat(path)
        self.write("user1", make_line("new"))

        def stat(name, *args, **keywords):
            # Some file systems have a coarse clock.
            return before if name == path else real(name, *args, **keywords)

        self.overrideAttr(os, "stat", stat)
        self.assertIs(None, self.found("bzr", "old"))
        self.assertEqual("user1", self.found("user1", "new"))

    def test_unreadable_for_once(self):
        """A file that could not be read once is read at the next login."""
        self.write("user1", make_line("new"))
        real = keydirectory.open

        def fail(name, *args, **keywords):
            raise OSError(errno.EMFILE, "Too many open files")

        keydirectory.open = fail
        self.assertIs(None, self.found("user1", "new"))
        keydirectory.open = real
        self.assertEqual("user1", self.found("user1", "new"))


class TestWaiting(ManyFilesCase):
    """FAULT 40: only a client with an unknown key waits for a renewal."""

    def setUp(self):
        super().setUp()
        self.clock = Clock()
        self.checker = KeyChecker(self.keys, self.clock)
        self.renewals = 0
        real = self.keys.renew

        def renew():
            self.renewals += 1
            return real()

        self.keys.renew = renew

    def begin(self, name, account=b"bzr"):
        """Look for the key *name*; a list, which gets the result when there is one."""
        outcome = []
        found = defer.maybeDeferred(self.checker.find, account, make_blob(name))
        found.addBoth(outcome.append)
        return outcome

    def end(self):
        """Let all steps be done; their number."""
        steps = 0
        while self.clock.getDelayedCalls():
            self.clock.advance(1)
            steps += 1
        return steps

    def test_known(self):
        """A client with a known key does not wait for the others."""
        waiting = self.begin("nobody's")
        for account in (b"bzr", b"user7"):
            ((found,), nobody) = self.begin("key7", account), self.begin("x", b"user7")
            self.assertEqual(("user7", [None]), (found.user, nobody))
        self.assertEqual([], waiting)
        self.assertEqual(COUNT // 25, self.end())
        self.assertEqual(([None], []), (waiting, self.opened))

    def test_added(self):
        """A key that is added during a renewal is found by the next one."""
        first = self.begin("new")
        # The renewal may be past this file.
        for number in range(COUNT):
            self.write(f"user{number}", make_line("other"))
        self.write("user150", make_line("new"))
        second = self.begin("new")
        self.end()
        self.assertEqual("user150", second[0].user)
        self.assertEqual(1, len(first))
        self.assertEqual(2, self.renewals)

    def test_many(self):
        """One more renewal serves all who ask during the first."""
        waiting = [self.begin(f"x{number}") for number in range(100)]
        self.clock.advance(1)
        waiting += [self.begin(f"y{number}") for number in range(100)]
        self.end()
        self.assertEqual([[None]] * 200, waiting)
        self.assertEqual(2, self.renewals)
        self.begin("z")
        self.end()
        self.assertEqual(3, self.renewals)

    def test_failing(self):
        """A renewal that fails leaves nobody waiting."""
        self.keys._look_at = None
        self.assertEqual([], self.begin("nobody's")[1:])
        self.end()
        self.assertEqual(1, len(self.handler.lines))
        del self.keys._look_at
        self.handler.lines.clear()
        waiting = self.begin("nobody's")
        self.end()
        self.assertEqual([None], waiting)
