# SPDX-License-Identifier: GPL-2.0-or-later

"""Who may log in with which key."""

import base64
import random
import struct

from breezy.tests import TestCase

from ...lpserve.ssh.authorizedkeys import KeyLineError, parse_line

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
    *('principals="alice"', "no-restrict", "touch-required", 'new="yes"'),
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
        """Wherever a line was cut, it is said that the key is truncated."""
        for kind in ("ssh-ed25519", "ecdsa-sha2-nistp256"):
            kind, text, _ = make_line("alice", kind=kind).split()
            for length in range(1, len(text.rstrip("="))):
                self.assertRefused(f"{kind} {text[:length]}", "truncated")

    def test_not_base64(self):
        kind, text, _ = make_line("alice").split()
        for other in ("*", "====", text[:-8] + "\u2022" + text[-8:]):
            self.assertRefused(f"{kind} {other}", "truncated")

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
