# SPDX-License-Identifier: GPL-2.0-or-later

"""Who may log in with which key, and whether the files that say so can be trusted."""

import builtins
import logging
import os

from breezy.tests import TestCaseInTempDir

from ...lpserve.errors import ConfigurationError
from ...lpserve.ssh.keydirectory import KeyDirectory
from .test_authorizedkeys import make_blob, make_line


class LogHandler(logging.Handler):
    """Keeps what is logged."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(f"{record.levelname} {record.getMessage()}")


class KeyDirectoryCase(TestCaseInTempDir):
    """A directory of keys, and what is logged about it."""

    def setUp(self):
        super().setUp()
        self.path = os.path.join(self.test_dir, "keys")
        os.mkdir(self.path)
        os.chmod(self.path, 0o755)
        self.keys = KeyDirectory(self.path, "bzr")
        self.handler = LogHandler()
        log = logging.getLogger("lpserve")
        log.addHandler(self.handler)
        self.addCleanup(log.removeHandler, self.handler)
        self.overrideAttr(log, "propagate", False)

    def write(self, name, *lines, mode=0o644):
        """Have the file *name*, with these lines; its path."""
        path = os.path.join(self.path, name)
        with open(path, "wb") as file:
            file.write("".join(line + "\n" for line in lines).encode())
        os.chmod(path, mode)
        return path

    def found(self, account, name):
        """The USER that the key *name* gets as *account*."""
        found = self.keys.find(account, make_blob(name))
        return found and found.user

    def assertNobody(self, name="alice"):
        """The key *name* lets nobody in, however often it is tried."""
        for account in ("alice", "bzr", "alice", "bzr"):
            self.assertIs(None, self.found(account, name))

    def assertTold(self, *texts):
        """The log has one warning, with these texts; it is forgotten then."""
        self.assertEqual(1, len(self.handler.lines), self.handler.lines)
        line = self.handler.lines.pop()
        self.assertStartsWith(line, "WARNING ")
        self.assertNotContainsString(line, "\n")
        for text in texts:
            self.assertContainsString(line, text)

    def assertNothingTold(self):
        self.assertEqual([], self.handler.lines)

    def assertUnusable(self, *texts):
        """The server does not start with it, and says why."""
        text = str(self.assertRaises(ConfigurationError, self.keys.check))
        self.assertNotContainsString(text, "\n")
        for each in (self.path, "--authorized-keys is a directory", *texts):
            self.assertContainsString(text, each)

    def own(self, uid, *paths):
        """Have *paths* look as if *uid* owned them, which takes root to do."""
        real = os.stat

        def stat(name, *args, **keywords):
            found = real(name, *args, **keywords)
            if name in paths:
                found = os.stat_result([*found[:4], uid, *found[5:]])
            return found

        self.overrideAttr(os, "stat", stat)


class TestFind(KeyDirectoryCase):
    def test_name_of_the_shared_account(self):
        for name in ("code", ""):
            self.keys = KeyDirectory(self.path, name)
            self.write("alice", make_line("alice"))
            self.assertEqual("alice", self.found("alice", "alice"))
            self.assertIs(None, self.found("bzr", "alice"))
        self.keys = KeyDirectory(self.path, "code")
        self.assertEqual("alice", self.found("code", "alice"))

    def test_several_keys(self):
        lines = ["# work", make_line("one"), "", make_line("two", "no-pty")]
        path = self.write("alice", *lines, "\t# home\r", make_line("three") + "\r")
        with open(path, "a") as file:
            file.write(make_line("without end"))
        for name in ("one", "two", "three", "without end"):
            for account in ("alice", "bzr"):
                self.assertEqual("alice", self.found(account, name))
        self.assertNothingTold()

    def test_same_key_twice(self):
        """As the shared account, nobody logs in with a key of two users."""
        for user in ("alice", "bob"):
            self.write(user, make_line("common"), make_line(user), make_line(user))
        for user in ("alice", "bob"):
            self.assertEqual(user, self.found(user, "common"))
            self.assertEqual(user, self.found("bzr", user))
        self.assertNothingTold()
        for _ in range(3):
            self.assertIs(None, self.found("bzr", "common"))
        self.assertTold("alice and bob have the same key", "bzr")

    def test_lines_that_let_nobody_in(self):
        """Each bad line is logged once; the good ones are used."""
        bad = [make_line("one", 'command="ls"'), make_line("one")[:50], "rubbish"]
        path = self.write("alice", "# mine", *bad, make_line("two"))
        self.assertNobody("one")
        self.assertEqual("alice", self.found("bzr", "two"))
        told = [line.partition(": ")[0] for line in self.handler.lines]
        self.assertEqual([f"WARNING {path}:{n}" for n in (2, 3, 4)], told)
        del self.handler.lines[1:]
        self.assertTold("the option command is not supported here", "is ignored")

    def test_many_faults(self):
        """The memory of what was logged is bounded."""
        self.write("alice", *(f"rubbish {n}" for n in range(3000)))
        self.assertIs(None, self.found("alice", "alice"))
        self.assertEqual(3000, len(self.handler.lines))
        self.assertTrue(len(self.keys._warned) < 1100)

    def test_rubbish_beside_good_files(self):
        """Whatever other files hold, a user with a good file gets in."""
        kind, text, _ = make_line("alice").split()
        self.write("mary", make_line("mary"))
        for data in (
            b"\xff\xfe" + make_line("alice").encode("utf-16-le"),
            f"{kind} {text[:20]}\u2022{text[20:]}".encode(),
            b"\0" * 5000,
            os.urandom(5000),
            make_line("alice", 'environment="A=').encode(),
        ):
            for name in ("alice", "zoe"):
                with open(self.write(name), "wb") as file:
                    file.write(data)
            self.assertEqual("mary", self.found("bzr", "mary"))
            self.assertNobody()

    def test_names_that_are_no_user(self):
        """They open no file: neither an account of that name nor a file."""
        outside = os.path.join(self.test_dir, "outside")
        with open(outside, "w") as file:
            file.write(make_line("alice") + "\n")
        os.mkdir(os.path.join(self.path, "a"))
        # Backups of editors, which would keep a removed key valid, are among them.
        names = [".alice.swp", "alice~", "#alice#"]
        names += ["-r", "x" * 70, "a b", "a/b", "a\nb", "K\xf6nig"]
        for name in names:
            self.write(name, make_line("alice"))
        others = ["", ".", "..", "../outside", outside, "./a/b", "a\0b", "\ud800"]
        for account in names + others:
            self.assertIs(None, self.found(account, "alice"), repr(account))
        self.assertNothingTold()
        self.assertIs(None, self.found("bzr", "alice"))


class TestTrust(KeyDirectoryCase):
    """Files that others may have written are ignored."""

    def test_writable_by_others(self):
        path = self.write("alice", make_line("alice"))
        for mode in (0o664, 0o646, 0o666):
            os.chmod(path, mode)
            self.assertNobody()
            self.assertTold(path, "writable by others", f"{mode:04o}", "is ignored")
        os.chmod(path, 0o640)
        self.assertEqual("alice", self.found("bzr", "alice"))
        for mode in (0o775, 0o757, 0o1777):
            os.chmod(self.path, mode)
            self.assertNobody()
            self.assertTold(
                self.path, "writable by others", f"{mode:04o}", "is ignored"
            )
            self.assertUnusable("is writable by others", f"{mode:04o}")
        for mode in (0o700, 0o2750):
            os.chmod(self.path, mode)
            self.keys.check()
            self.assertEqual("alice", self.found("bzr", "alice"))

    def test_owned_by_another(self):
        path = self.write("alice", make_line("alice"))
        self.write("bob", make_line("bob"))
        self.own(4242, path)
        self.assertNobody()
        self.assertTold(path, "owned by uid 4242", f"not by uid {os.geteuid()}")
        self.assertEqual("bob", self.found("bzr", "bob"))
        self.own(4242, self.path)
        self.assertUnusable("is owned by uid 4242")
        self.assertIs(None, self.found("bzr", "bob"))
        self.assertTold(self.path, "owned by uid 4242")

    def test_owned_by_root(self):
        """root may give keys to a server that runs as somebody else."""
        path = self.write("alice", make_line("alice"))
        self.own(0, path, self.path)
        self.overrideAttr(os, "geteuid", lambda: 4242)
        self.keys.check()
        self.assertEqual("alice", self.found("alice", "alice"))

    def test_link(self):
        """The permissions of its target count."""
        target = self.write(".elsewhere", make_line("alice"))
        os.symlink(target, os.path.join(self.path, "alice"))
        self.assertEqual("alice", self.found("alice", "alice"))
        os.chmod(target, 0o666)
        self.assertNobody()


class TestOddFiles(KeyDirectoryCase):
    """No kind of file makes a login wait or raise an exception."""

    def setUp(self):
        super().setUp()
        self.write("zoe", make_line("zoe"))
        self.alice = os.path.join(self.path, "alice")

    def tearDown(self):
        """Other users still log in."""
        self.assertEqual("zoe", self.found("bzr", "zoe"))
        super().tearDown()

    def test_no_file(self):
        for make in (os.mkfifo, os.mkdir):
            self.keys._warned.clear()
            make(self.alice)
            self.assertNobody()
            self.assertTold(f"{self.alice} is not a file", "is ignored")
            os.rename(self.alice, os.path.join(self.test_dir, make.__name__))

    def test_links(self):
        os.symlink("missing", self.alice)
        self.assertNobody()
        self.assertNothingTold()
        os.unlink(self.alice)
        os.symlink("alice", self.alice)
        self.assertNobody()
        self.assertTold(f"cannot read {self.alice}: ", "symbolic links")

    def test_unreadable(self):
        self.write("alice", make_line("alice"))
        real = open

        def refuse(name, *args, **keywords):
            if name == self.alice:
                raise PermissionError(13, "Permission denied", name)
            return real(name, *args, **keywords)

        self.overrideAttr(builtins, "open", refuse)
        self.assertNobody()
        self.assertTold(f"cannot read {self.alice}: Permission denied")

    def test_huge(self):
        """Only its beginning is read, and a warning is logged."""
        self.write(
            "alice", make_line("first"), *["#" * 99] * 30_000, make_line("alice")
        )
        for account in ("alice", "bzr"):
            self.assertEqual("alice", self.found(account, "first"))
        self.assertNobody()
        self.assertTold(self.alice)
        os.truncate(self.write("alice"), 1 << 30)
        self.assertNobody()

    def test_directory_goes(self):
        """Nobody can log in until it is there again."""
        os.rename(self.path, self.path + ".old")
        self.assertNobody("zoe")
        self.assertTold(f"cannot read {self.path}: No such file")
        self.assertUnusable("No such file")
        with open(self.path, "w") as file:
            file.write(make_line("zoe"))
        self.assertUnusable(f"{self.path} is not a directory")
        self.assertNobody("zoe")
        os.unlink(self.path)
        os.rename(self.path + ".old", self.path)
