# SPDX-License-Identifier: GPL-2.0-or-later

"""Tests do not depend on how they were started."""

import os
import signal
import subprocess

from breezy.tests import TestCase

from ..lpserve.system import open_descriptors
from . import knownstate
from .harness import DEADLINE, LiveTestCase

#: What starts the tests and does not care what it hands on.
CARELESS = 'trap "" INT QUIT HUP TERM USR1 CHLD; umask 077; exec "$@"'


class TestState(TestCase):
    """What every test finds."""

    def test_signals(self):
        ignored = [n for n in signal.valid_signals() if n not in knownstate.OF_PYTHON]
        for number in ignored:
            self.assertNotEqual(signal.SIG_IGN, signal.getsignal(number), number)
        self.assertEqual(signal.default_int_handler, signal.getsignal(signal.SIGINT))
        self.assertEqual(set(), signal.pthread_sigmask(signal.SIG_BLOCK, ()))

    def test_descriptors(self):
        """Those that are handed on are standard input, output and error."""
        found = [n for n in open_descriptors() if os.get_inheritable(n)]
        self.assertEqual([0, 1, 2], found)

    def test_umask_and_environment(self):
        umask = os.umask(0o022)
        os.umask(umask)
        self.assertEqual(0o022, umask)
        self.assertEqual([], [name for name in knownstate.NAMES if name in os.environ])


class TestStart(LiveTestCase):
    """These and some others, started by somebody careless."""

    def test_careless_shell(self):
        """FAULT 68: ignored signals, descriptors, a umask, an odd environment."""
        descriptor = os.open(os.devnull, os.O_RDONLY)
        self.addCleanup(os.close, descriptor)
        odd = dict.fromkeys(knownstate.NAMES, "/nonexistent/odd")
        words = ["selftest", "-s", "bp.lpserve", "test_knownstate.TestState"]
        done = subprocess.run(
            ["sh", "-c", CARELESS, "sh", *self.brz(*words)],
            pass_fds=[descriptor],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**odd, **self.env, "LC_ALL": "C"},
            preexec_fn=lambda: signal.pthread_sigmask(
                signal.SIG_BLOCK, [signal.SIGHUP]
            ),
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        self.assertContainsString(done.stdout, "Ran 3 tests")
        self.assertEqual(0, done.returncode, done.stdout)
