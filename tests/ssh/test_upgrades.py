# SPDX-License-Identifier: GPL-2.0-or-later

"""Upgrades that fail at each step, as the front sees them."""

import logging
import os
import select
import signal
import sys

from breezy.tests import TestCaseInTempDir

from ...lpserve import handover
from ...lpserve.handover import SuccessorSpec
from ...lpserve.loginrules import Rules, parse_max_startups
from ...lpserve.ssh.gate import Gate
from ...lpserve.ssh.listening import Listener
from ...lpserve.ssh.upgrades import Origin, Upgrades
from ...lpserve.systemd import Notifier
from ..waiting import DEADLINE
from .clockreactor import Reactor
from .test_gate import arrival

#: A successor that says these words, and then waits for the end.
PROGRAM = """
import socket, sys
end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, int(sys.argv[-1][12:]))
for kind in b'"document"', b'"descriptors"':
    assert kind in end.recv(65536)
for word in sys.argv[1:-1]:
    end.send(b'{"kind": "%s", "text": "too bad"}' % word.encode())
if "failed" in sys.argv:
    sys.exit()
while b'"go"' not in (found := end.recv(65536)) and found:
    pass
if "late" in sys.argv:
    end.send(b'{"kind": "serving"}')
if "over" not in sys.argv:
    end.recv(65536)
"""


class Front:
    """Notes what it is told, as an `upgrades.UpgradeControl`."""

    def __init__(self):
        self.told = []

    def counts(self):
        return 1, 1

    def __getattr__(self, name):
        return lambda *words: self.told.append((name, *words))


class TestUpgrades(TestCaseInTempDir):
    def setUp(self):
        super().setUp()
        self.overrideAttr(logging.getLogger("lpserve"), "disabled", True)
        self.overrideEnv("NOTIFY_SOCKET", None)
        self.reactor = Reactor()
        self.front = Front()
        self.gate = Gate(self.reactor, Rules(parse_max_startups("10:30:100")))
        self.listener = Listener(self.reactor, ("127.0.0.1", 0), None)
        self.listener.open()
        self.addCleanup(self.listener.close)

    def begin(self, *words):
        argv = (sys.executable, "-c", PROGRAM, *words)
        spec = SuccessorSpec(argv, dict(os.environ))
        origin = Origin("1", spec, ("127.0.0.1", 0))
        systemd = Notifier(self.reactor.callLater)
        made = Upgrades(
            self.reactor, origin, self.front, self.gate, self.listener, systemd
        )
        made.begin("the test")
        return made

    def wait_told(self, *wanted):
        """Until the front has been told this, and nothing is left of the successor."""

        def told():
            return wanted in self.front.told and not self.reactor.readers

        self.reactor.run_until(told)
        self.assertEqual([], self.reactor.getDelayedCalls())

    def test_not_ready(self):
        """It does not say anything in time."""
        self.begin()
        self.reactor.advance(handover.READY_TIMEOUT)
        self.wait_told("upgrade_failed", "it was not ready in time")

    def test_says_why(self):
        made = self.begin("failed")
        self.assertTrue(made.pass_on(signal.SIGHUP))
        self.assertTrue(made.pass_on(signal.SIGUSR2))
        self.wait_told("upgrade_failed", "too bad")
        self.assertEqual(("signalled", signal.SIGHUP), self.front.told[-1])

    def test_not_serving(self):
        """It leaves the socket to it, and takes all back when it has gone."""
        number = self.gate.admit(arrival("192.0.2.1"))
        made = self.begin("ready")
        self.reactor.run_until(lambda: made.has_left)
        self.assertEqual([("leave",)], self.front.told)
        # What happens meanwhile is counted, by whoever serves then.
        self.assertNotEqual(0, self.gate.admit(arrival("192.0.2.2")))
        self.gate.logged_in(number)
        self.assertTrue(made.pass_on(signal.SIGTERM))
        self.assertEqual({}, dict(self.gate.figures.logins))
        self.reactor.advance(handover.GO_TIMEOUT)
        self.wait_told("upgrade_failed", "it was not ready in time")
        self.assertEqual({"accepted": 1}, dict(self.gate.figures.logins))
        self.assertEqual(1, self.gate.count)
        told = [each[0] for each in self.front.told]
        self.assertEqual(["leave", "come_back", "upgrade_failed", "signalled"], told)

    def test_serves(self):
        """It is told what there is, and what is for it; then it ends."""
        made = self.begin("ready", "serving", "over")
        self.reactor.run_until(lambda: made.has_left)
        self.wait_told("successor_gone", True)
        self.assertIn(("handed_over",), self.front.told)
        self.assertFalse(made.pass_on(signal.SIGTERM))

    def test_stopped_itself(self):
        """It was stopped for so long that the time is over when it goes on."""
        made = self.begin("ready", "late")
        self.reactor.run_until(lambda: made.has_left)
        # What it says is there, and unread.
        select.select(list(self.reactor.readers), [], [], DEADLINE)
        self.reactor.advance(handover.GO_TIMEOUT)
        self.assertEqual(("handed_over",), self.front.told[-1])
        self.wait_told("successor_gone", False)

    def test_no_program(self):
        self.overrideAttr(sys, "executable", "/missing")
        self.begin()
        [(kind, why)] = self.front.told
        self.assertStartsWith(f"{kind}: {why}", "upgrade_failed: cannot start a succ")
