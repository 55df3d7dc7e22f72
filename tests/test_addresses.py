# SPDX-License-Identifier: GPL-2.0-or-later

"""Where servers listen."""

import socket

from breezy.tests import TestCase

from ..lpserve.addresses import parse_address, parse_ip_address
from ..lpserve.errors import ConfigurationError


class TestParseAddress(TestCase):
    def test_addresses(self):
        for text, expected in (
            ("127.0.0.1:5022", ("127.0.0.1", 5022)),
            ("127.0.0.1:0", ("127.0.0.1", 0)),
            ("0.0.0.0:65535", ("0.0.0.0", 65535)),
            ("[::1]:5022", ("::1", 5022)),
            ("[::]:22", ("::", 22)),
            ("[0:0::1]:022", ("::1", 22)),
            (":5022", ("0.0.0.0", 5022)),
        ):
            self.assertEqual(expected, parse_address(text))

    def test_name_is_looked_up(self):
        asked = []

        def look_up(host, port, *args, **keywords):
            asked.append((host, port))
            return [
                (
                    socket.AF_INET6,
                    socket.SOCK_STREAM,
                    6,
                    "",
                    ("2001:db8::1", port, 0, 0),
                ),
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", port)),
            ]

        self.overrideAttr(socket, "getaddrinfo", look_up)
        self.assertEqual(("2001:db8::1", 22), parse_address("code.example.com:22"))
        self.assertEqual([("code.example.com", 22)], asked)

    def test_no_such_name(self):
        def look_up(*args, **keywords):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        self.overrideAttr(socket, "getaddrinfo", look_up)
        error = self.assertRaises(ConfigurationError, parse_address, "nowhere:22")
        self.assertEqual(
            "cannot listen on nowhere:22: Name or service not known", str(error)
        )

    def test_no_address(self):
        for text in (
            *("", ":", "5022", "127.0.0.1", "127.0.0.1:", "localhost", "[::1]"),
            *("127.0.0.1:ssh", "127.0.0.1:-1", "127.0.0.1:65536", "127.0.0.1:5 022"),
            *("127.0.0.1:1e3", "127.0.0.1:\u0665", "127.0.0.1:\xb2", "127.0.0.1: 22"),
            *("127.0.0.1:0x16", "127.0.0.1:" + "9" * 5000, "tcp:22:interface=lo"),
        ):
            error = self.assertRaises(ConfigurationError, parse_address, text)
            self.assertStartsWith(str(error), "listen must be HOST:PORT, as in ")
            self.assertContainsString(str(error), repr(text)[:20])

    def test_name_that_cannot_be(self):
        """Names that the resolver refuses before it looks them up."""
        for host in ("a..b", "x" * 64, ".", "a\0b"):
            error = self.assertRaises(ConfigurationError, parse_address, f"{host}:22")
            self.assertStartsWith(str(error), f"cannot listen on {host}:22: ")


class TestParseIpAddress(TestCase):
    def parse(self, text):
        return parse_ip_address(text, "NAME", 1)

    def test_valid(self):
        self.assertEqual(("127.0.0.1", 22), self.parse("127.0.0.1:22"))
        self.assertEqual(("::1", 22), self.parse("[::1]:22"))
        self.assertEqual(None, self.parse(""))
        self.assertEqual(None, self.parse(None))

    def test_invalid(self):
        """A name is none, because to look it up takes time."""
        for text in ("localhost:22", ":22", "127.0.0.1", "127.0.0.1:x", "1:65536"):
            error = self.assertRaises(ConfigurationError, self.parse, text)
            expected = f"NAME must be ADDRESS:PORT, as in 127.0.0.1:1, not {text!r}"
            self.assertEqual(expected, str(error))
