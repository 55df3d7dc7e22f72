# SPDX-License-Identifier: GPL-2.0-or-later

"""The start of the SSH server."""

import os
import socket

from breezy.tests import TestCase
from twisted.logger import Logger
from twisted.python import log as legacy
from twisted.python.failure import Failure

from ...lpserve import logs
from ...lpserve.errors import ConfigurationError
from ...lpserve.ssh import start
from ...lpserve.ssh.start import parse_address
from ..test_system import in_child


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


class TestLog(TestCase):
    """Warnings and errors of Twisted are logged, the rest is not."""

    def logged(self, say):
        """What *say* writes to standard error."""

        def run():
            reader, writer = os.pipe()
            os.dup2(writer, 2)
            os.close(writer)
            start._log()
            say()
            os.close(2)
            with open(reader) as file:
                return file.read()

        return in_child(run)

    def test_levels(self):
        def say():
            Logger(namespace="twisted.conch").info("kex alg={alg}", alg="curve25519")
            Logger(namespace="twisted.conch").debug("got packet")
            legacy.msg("Factory starting on 5022")
            Logger(namespace="twisted.conch").warn("{what} is odd", what="that")
            Logger(namespace="twisted.conch").error("and that is wrong")

        first, second = self.logged(say).splitlines()
        self.assertEndsWith(first, " WARNING that is odd")
        self.assertEndsWith(second, " ERROR and that is wrong")

    def test_failures(self):
        """They are logged with their traceback."""

        def say():
            for report in (
                lambda: Logger(namespace="twisted").failure("it failed"),
                lambda: legacy.err(Failure(), "so did this"),
            ):
                try:
                    raise ValueError("on purpose")
                except ValueError:
                    report()

        said = self.logged(say)
        for text in (" CRITICAL it failed\n", " CRITICAL so did this\n"):
            self.assertContainsString(said, text)
        self.assertEqual(2, said.count("ValueError: on purpose\n"))
        self.assertContainsString(said, os.path.basename(__file__))

    def test_what_was_said_before(self):
        """What Twisted logged before is not repeated."""

        def say():
            logs.log.info("ours")

        Logger(namespace="twisted").warn("before")
        said = self.logged(say).splitlines()
        self.assertEqual(1, len(said), said)
        self.assertEndsWith(said[0], " INFO ours")
