# SPDX-License-Identifier: GPL-2.0-or-later

"""The start of the SSH server."""

import os

from breezy.tests import TestCase
from twisted.logger import Logger
from twisted.python import log as legacy
from twisted.python.failure import Failure

from ...lpserve import logs
from ...lpserve.ssh import start
from ..test_system import in_child


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
