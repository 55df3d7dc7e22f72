# SPDX-License-Identifier: GPL-2.0-or-later

"""What lp-serve-ssh counts, and the file that tells it."""

import os

from breezy.tests import TestCaseInTempDir
from twisted.internet.task import Clock

from ...lpserve.loginrules import Rules, parse_max_startups, parse_penalties
from ...lpserve.ssh.figures import Figures, StateFile
from ...lpserve.ssh.limits import Limits
from ...lpserve.sshstate import INTERVAL, SshState, read_states


class TestFigures(TestCaseInTempDir):
    def test_drops(self):
        """Every reason for which `Limits` refuses is counted as its own."""
        figures = Figures()
        startups = parse_max_startups("2:100:2")
        limits = Limits(Rules(startups), lambda most: 0)
        limits.begin("192.0.2.1")
        figures.dropped(limits.refusal("192.0.2.1", 0.0))
        limits.begin("192.0.2.2")
        figures.dropped(limits.refusal("192.0.2.3", 0.0))
        penalties = parse_penalties("max-sources4:1 overflow:deny-all authfail:60s")
        limits.rules = Rules(startups, penalties=penalties)
        limits.penalise("192.0.2.4", "authfail", 0.0)
        figures.dropped(limits.refusal("192.0.2.5", 0.0))
        limits.rules = Rules(startups, penalties=parse_penalties("authfail:60s"))
        figures.dropped(limits.refusal("192.0.2.4", 0.0))
        self.assertEqual(
            dict.fromkeys(
                (
                    *("per_source_max_startups", "max_startups", "max_penalties"),
                    "penalty",
                ),
                1,
            ),
            dict(figures.drops),
        )


class TestStateFile(TestCaseInTempDir):
    def test_directory(self):
        """The runtime directory comes and goes with the service."""
        clock = Clock()
        directory = os.path.abspath("run")
        file = StateFile(clock, directory, lambda: SshState("0.0.0.0:22", 1.0))
        file.open()
        self.assertEqual([], read_states(directory))
        for _ in range(2):
            os.mkdir(directory, 0o700)
            clock.advance(INTERVAL)
            self.assertEqual(1, len(read_states(directory)))
            os.rename(directory, "away" + str(clock.seconds()))
            clock.advance(INTERVAL)
        os.mkdir(directory, 0o700)
        clock.advance(INTERVAL)
        file.close()
        self.assertEqual(([], []), (os.listdir(directory), clock.getDelayedCalls()))

    def test_not_ours(self):
        """Nothing is written where others can write."""
        os.mkdir("run")
        os.chmod("run", 0o777)
        file = StateFile(Clock(), "run", lambda: SshState("0.0.0.0:22", 1.0))
        file.open()
        self.assertEqual([], os.listdir("run"))
