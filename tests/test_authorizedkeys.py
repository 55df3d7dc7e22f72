# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""Who may log in with which key."""

import base64
import logging
import os
import random
import struct

from breezy.tests import TestCase, TestCaseInTempDir

from ..lpserve.authorizedkeys import KeyDirectory, KeyLineError, parse_line
from ..lpserve.errors import ConfigurationError

#: Nobody gets what they allow or forbid.
WITHOUT_EFFECT = [
    *("restrict", "pty", "no-pty", "user-rc", "no-user-rc", "port-forwarding"),
    *("no-port-forwarding", "agent-forwarding", "no-agent-forwarding"),
    *("X11-forwarding", "no-X11-forwarding", 'permitopen="localhost:80"'),
    *('permitlisten="8080"', 'tunnel="0"', "restrict,pty"),
    'no-pty,No-X11-Forwarding,permitopen="a:1",permitopen="b:2",RESTRICT',
]

#: Without what they restrict, a key would open more than it should.
WITH_EFFECT = [
    *('command="ls"', 'from="10.0.0.*"', 'expiry-time="20300101"', "cert-authority"),
    *('principals="alice"', "verify-required", "no-touch-required", "no-restrict"),
    'new="yes"',
]

#: Those of no option, or of two that run into each other.
NOT_UNDERSTOOD = [
    *('environment="A=b', 'environment="A=b\\"', "environment=A=b", "no-pty,"),
    *('environment="A=b"no-pty', ",no-pty", "no-pty,,restrict", "no_pty", '"no-pty"'),
    *("no-pty=yes", "=", ",", "\\", '"'),
]

#: What random lines are made of.
PIECES = [
    *'"\\,= \t\r\v\0#-\x1c\x85\xa0\u0661\u2022\u2028\ud800\ufffd',
    *('\\"', '",', '" ', 'environment="', "BRZ_EMAIL=a", "environment", "command"),
    *("no-pty", "restrict", 'tunnel="1" ', "AAAA", "==", "ssh-", "ecdsa-", "sk-"),
    *("ssh-rsa ", "ssh-ed25519 "),
]


def make_blob(name, kind="ssh-ed25519"):
    """A public key as it is sent, another for each *name*."""
    parts = kind.encode(), name.encode().ljust(32, b".")
    return b"".join(struct.pack(">L", len(part)) + part for part in parts)


def make_line(name, options="", kind="ssh-ed25519"):
    """The line of a file for that key."""
    text = base64.b64encode(make_blob(name, kind)).decode()
    return f"{options} {kind} {text} {name}@example.com".lstrip()


class LogHandler(logging.Handler):
    """Keeps what is logged."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(f"{record.levelname} {record.getMessage()}")


class TestParseLine(TestCase):
    """`parse_line`, against sshd(8), "AUTHORIZED_KEYS FILE FORMAT"."""

    def assertAccepted(self, line, environment=None, kind="ssh-ed25519"):
        found = parse_line(line, "alice")
        self.assertIsNot(None, found, line)
        self.assertEqual(
            ("alice", make_blob("alice", kind), environment or {}),
            (found.user, found.blob, found.environment),
        )

    def assertRefused(self, line, why=""):
        error = self.assertRaises(KeyLineError, parse_line, line, "alice")
        self.assertContainsString(str(error), why)
        self.assertNotContainsString(str(error), "\n")

    def test_key_types(self):
        for kind in (
            *("ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256"),
            *("sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"),
        ):
            self.assertAccepted(make_line("alice", kind=kind), kind=kind)

    def test_around_the_key(self):
        """Blanks, CRLF and a comment, or none, which may hold anything."""
        line = make_line("alice")
        kind, text, _ = line.split()
        for each in (f"  {line}\n", f"\t{line}\r\n", f"{kind}\t {text}"):
            self.assertAccepted(each)
        for comment in ('"of" \'command="ls",\\', "K\xf6nig", 'from="10.0.0.1"', "#"):
            self.assertAccepted(f"{kind} {text} {comment}")

    def test_nothing(self):
        for line in ("", "\n", "\r\n", " \t ", "#", "# a comment", " #" + "x" * 9999):
            self.assertIs(None, parse_line(line, "alice"))
        self.assertIs(None, parse_line("#" + make_line("alice"), "alice"))

    def test_options_without_effect(self):
        """The case does not matter."""
        for options in WITHOUT_EFFECT:
            for each in (options, options.upper(), f"  {options}\t", "pty," + options):
                self.assertAccepted(make_line("alice", each))

    def test_options_with_effect(self):
        for option in WITH_EFFECT:
            name = option.partition("=")[0]
            why = f"the option {name} is not supported here"
            upper = option.replace(name, name.upper())
            for each in (option, f"restrict,{option}", f"{option},no-pty", upper):
                self.assertRefused(make_line("alice", each), why)

    def test_options_that_cannot_be_understood(self):
        for options in NOT_UNDERSTOOD:
            self.assertRefused(make_line("alice", options))

    def test_quoting(self):
        """Blanks, commas, escaped quotes and what looks like an option."""
        for value in (
            *("Alice <alice@example.com>", 'a,command="ls",b', 'a "b" c', '"', "", "#"),
            *("ssh-ed25519 AAAA", "a=b=c", r"C:\dir", "K\xf6nig"),
        ):
            escaped = value.replace('"', '\\"')
            option = f'environment="BRZ_EMAIL={escaped}"'
            for options in (option, f"no-pty,{option}", f"{option},restrict"):
                self.assertAccepted(make_line("alice", options), {"BRZ_EMAIL": value})

    def test_environment(self):
        options = 'environment="BRZ_EMAIL=a@b",Environment="LANG=C"'
        expected = {"BRZ_EMAIL": "a@b", "LANG": "C"}
        self.assertAccepted(make_line("alice", options), expected)
        for option in ("environment", 'environment=""', 'environment="BRZ_EMAIL"'):
            self.assertRefused(make_line("alice", option), "NAME=value")

    def test_no_key(self):
        for line in (
            *("ssh-ed25519", "restrict", "restrict ", "1024 35 1234567890", "<html>"),
            make_line("alice").replace("ssh-ed25519", "ed25519"),
            "-----BEGIN OPENSSH PRIVATE KEY-----",
        ):
            self.assertRefused(line)

    def test_truncated(self):
        """Wherever a line was cut, it is said that the key is not whole."""
        for kind in ("ssh-ed25519", "ecdsa-sha2-nistp256"):
            kind, text, _ = make_line("alice", kind=kind).split()
            for length in range(1, len(text.rstrip("="))):
                self.assertRefused(f"{kind} {text[:length]}", "not whole")

    def test_not_base64(self):
        kind, text, _ = make_line("alice").split()
        for other in ("*", "====", text[:-8] + "\u2022" + text[-8:]):
            self.assertRefused(f"{kind} {other}", "not whole")

    def test_key_of_another_type(self):
        """It has to be what the line says it is, as with sshd."""
        _, text, _ = make_line("alice").split()
        self.assertRefused(f"ssh-rsa {text}")

    def test_long(self):
        """Whatever of it is not closed, a long line is seen through in no time."""
        for unit in ("no-pty,", '"', "\\", '\\"', 'a="', " ", "AAAA", 'a="b",'):
            long = unit * (60_000 // len(unit))
            for line in (f"{long} rubbish", f"ssh-rsa {long}*", f'tunnel="{long}'):
                self.assertRefused(line)

    def test_random_lines(self):
        """There is no other exception than `KeyLineError`."""
        seed = random.SystemRandom().randrange(1 << 32)
        self.log("seed %d", seed)
        chance = random.Random(seed)
        pieces = [*PIECES, make_line("alice")]
        for _ in range(20_000):
            line = "".join(chance.choices(pieces, k=chance.randrange(12)))
            start = chance.randrange(len(line) + 1)
            line = line[:start] + chr(chance.randrange(0x3000)) + line[start:]
            try:
                parse_line(line, "alice")
            except KeyLineError as error:
                self.assertNotEqual("", str(error))
            except Exception as error:
                raise AssertionError(f"{line!r} (seed {seed}): {error!r}") from error


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
    def test_accounts(self):
        """One's own takes one's key; of the shared one the key says who it is."""
        for user in ("alice", "bob"):
            self.write(user, make_line(user))
        for user in ("alice", "bob"):
            self.assertEqual([user] * 2, [self.found(a, user) for a in (user, "bzr")])
        for account, key in (("alice", "bob"), ("carol", "alice"), ("bzr", "carol")):
            self.assertIs(None, self.found(account, key))
        self.assertNothingTold()

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

    def test_environment(self):
        option = 'environment="BRZ_EMAIL=Alice <a@b.example>"'
        self.write("alice", make_line("one"), make_line("two", option))
        for name, expected in (
            ("one", {}),
            ("two", {"BRZ_EMAIL": "Alice <a@b.example>"}),
        ):
            for account in ("alice", "bzr"):
                found = self.keys.find(account, make_blob(name))
                self.assertEqual(expected, found.environment)

    def test_same_key_twice(self):
        """Nobody can tell whose it is, where the name does not say it."""
        for user in ("alice", "bob"):
            self.write(user, make_line("common"), make_line(user), make_line(user))
        for user in ("alice", "bob"):
            self.assertEqual(user, self.found(user, "common"))
            self.assertEqual(user, self.found("bzr", user))
        self.assertNothingTold()
        for _ in range(3):
            self.assertIs(None, self.found("bzr", "common"))
        self.assertTold("alice and bob have the same key", "bzr")

    def test_read_afresh(self):
        self.assertNobody()
        for name in ("one", "two"):
            path = self.write("alice", make_line(name))
            for account in ("alice", "bzr"):
                self.assertEqual("alice", self.found(account, name))
        self.assertNobody("one")
        os.unlink(path)
        self.assertNobody("two")
        self.assertNothingTold()

    def test_lines_that_let_nobody_in(self):
        """The others do; what is wrong with each is told once."""
        bad = [make_line("one", 'command="ls"'), make_line("one")[:50], "rubbish"]
        path = self.write("alice", "# mine", *bad, make_line("two"))
        self.assertNobody("one")
        self.assertEqual("alice", self.found("bzr", "two"))
        told = [line.partition(": ")[0] for line in self.handler.lines]
        self.assertEqual([f"WARNING {path}:{n}" for n in (2, 3, 4)], told)
        del self.handler.lines[1:]
        self.assertTold("the option command is not supported here", "nobody in")

    def test_many_faults(self):
        """What has been told is not remembered without bound."""
        self.write("alice", *(f"rubbish {n}" for n in range(3000)))
        self.assertIs(None, self.found("alice", "alice"))
        self.assertEqual(3000, len(self.handler.lines))
        self.assertTrue(len(self.keys._told) < 1100)

    def test_rubbish_beside_good_files(self):
        """However bad it is: who is known by the key gets in."""
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
        """They open no file: not as an account, nor because the file is there."""
        outside = os.path.join(self.test_dir, "outside")
        with open(outside, "w") as file:
            file.write(make_line("alice") + "\n")
        os.mkdir(os.path.join(self.path, "a"))
        names = [".hidden", "-r", "#alice#", "x" * 70, "a b", "a/b", "a\nb", "K\xf6nig"]
        for name in names:
            self.write(name, make_line("alice"))
        others = ["", ".", "..", "../outside", outside, "./a/b", "a\0b", "\ud800"]
        for account in names + others:
            self.assertIs(None, self.found(account, "alice"), repr(account))
        self.assertNothingTold()
        self.assertIs(None, self.found("bzr", "alice"))

    def test_backups_of_editors(self):
        """They do not keep a key that has been removed alive."""
        self.write("alice", make_line("new"))
        for name in ("alice~", ".alice.swp", "#alice#"):
            self.write(name, make_line("old"))
            self.assertNobody("old")
