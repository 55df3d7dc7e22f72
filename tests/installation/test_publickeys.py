# SPDX-License-Identifier: GPL-2.0-or-later

"""What people give as a public key, and what forced commands say."""

import base64
import struct

from breezy.tests import TestCase

from ...lpserve.installation.publickeys import (
    KeyFileError,
    check_name,
    forced_line,
    parse_forced,
    parse_keys,
)
from .installationcase import make_key


def rsa_key(bits):
    parts = (b"ssh-rsa", b"\x01\x00\x01", b"\0" + b"\xff" * (bits // 8))
    blob = b"".join(struct.pack(">L", len(each)) + each for each in parts)
    return "ssh-rsa " + base64.b64encode(blob).decode()


class TestParseKeys(TestCase):
    def assertRefused(self, text, data):
        error = self.assertRaises(KeyFileError, parse_keys, data.encode(), "FILE")
        self.assertContainsRe(str(error), text)
        self.assertNotContainsString(str(error), "\n")

    def test_several(self):
        text = f"# mine\n\n{make_key('a')}\r\n{make_key('b')} \n{make_key('a')}"
        found = parse_keys(text.encode(), "FILE")
        self.assertEqual([make_key("a"), make_key("b")], [key.text for key in found])
        self.assertEqual(1, len(parse_keys(rsa_key(2048).encode(), "FILE")))

    def test_comment(self):
        """It cannot be a line of its own."""
        key = f"{make_key('a')} \x1b[2J\x0b"
        [found] = parse_keys(key.encode(), "FILE")
        self.assertEqual(f"{make_key('a')} [2J", found.text)

    def test_refused(self):
        for text, data in (
            (
                "FILE is a private key.* as in FILE.pub",
                "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n",
            ),
            ("FILE is a private key", "PuTTY-User-Key-File-3: ssh-ed25519\n"),
            ("ssh-keygen -i -f FILE", "---- BEGIN SSH2 PUBLIC KEY ----\nAAAA\n"),
            ("there is no public key in FILE", "\n# nothing\n"),
            ("FILE:1: this is not a public key", "hello\n"),
            ("FILE:2: the key has options", f"\nrestrict {make_key('a')}\n"),
            ("FILE:1: the key is truncated", make_key("a")[:40]),
            ("FILE:1: an RSA key needs 2048 bits, this has 1024", rsa_key(1024)),
            ("longer than", "#" * 100_000),
        ):
            self.assertRefused(text, data)

    def test_names(self):
        check_name("alice@example.com")
        for name in ("", "-a", "a b", "../x", "a/b", "alice~", "lp-serve-health"):
            self.assertRaises(KeyFileError, check_name, name)


class TestForced(TestCase):
    def test_parse(self):
        for command, expected in (
            ("lp-serve-client alice", ("lp-serve-client", "alice")),
            ("'/a b/lp-serve-client' alice", ("/a b/lp-serve-client", "alice")),
            ("exec /x/lp-serve-client --door=fifo bob", ("/x/lp-serve-client", "bob")),
            ("/x/lp-serve-client --runtime-dir /r bob", ("/x/lp-serve-client", "bob")),
            ("env A=b /x/brz lp-serve-client bob", ("/x/brz", "bob")),
            ("/x/brz lp-serve --inet bob", ("/x/brz", "bob")),
            ("/x/brz serve --inet", None),
            ("lp-serve-client", None),
            ("lp-serve-client 'b", None),
            ("", None),
            (None, None),
        ):
            self.assertEqual(expected, parse_forced(command), command)

    def test_line(self):
        [key] = parse_keys(make_key("a").encode(), "FILE")
        self.assertEqual(
            f"command=\"'/a b/lp-serve-client' alice\",restrict {make_key('a')}",
            forced_line("/a b/lp-serve-client", "alice", key),
        )
        self.assertRaises(KeyFileError, forced_line, '/a"b', "alice", key)
