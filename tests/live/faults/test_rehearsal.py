# SPDX-License-Identifier: GPL-2.0-or-later

"""FAULT 61: a rehearsal that fails is told of, and tried again until it succeeds."""

import os

from ...harness import HELLO, LiveTestCase, wait_until

#: A rehearsal that fails as long as the file is there, and is soon tried again.
FAILS = """
import os, sys
if "--fork-server" in sys.argv:
    from breezy.plugins.lpserve.lpserve.service import zygotes
    zygotes.REHEARSE_AFTER = 0.5
if "--zygote" in sys.argv and os.path.exists(%r):
    from breezy.plugins.lpserve.lpserve.zygote import rehearsal
    def _play(stage, answers, requests):
        raise OSError(28, "No space left on device")
    rehearsal._play = _play
"""


class TestRehearsal(LiveTestCase):
    rehearses = True

    def setUp(self):
        super().setUp()
        self.flag = os.path.join(self.test_dir, "flag")
        self.add_plugin("fails", FAILS % self.flag)

    def fail_from_now_on(self):
        with open(self.flag, "w"):
            pass

    def test_fails(self):
        self.fail_from_now_on()
        self.start_service()
        wanted = "its client failed (see the service's log)"
        found = wait_until(lambda: self.status()["rehearsal"], "the status says so")
        self.assertEqual(wanted, found["why"])
        self.assertTrue(0 <= found["retry"] <= 60, found)
        table = self.run_brz("lp-serve-control", "status").stdout.decode()
        self.assertContainsRe(table, r"rehearsal +failed: its client failed \(see .*; ")
        # It serves, if slowly; and what was asked for is done.
        connection = self.connect().open()
        self.assertEqual(HELLO, connection.hello())
        self.assertEqual(["ok"], self.ask("reload"))
        self.assertEqual(wanted, self.status()["rehearsal"]["why"])
        log = self.wait_for_log("trying again in 2 s")
        self.assertIn("No space left on device", log)
        self.assertIn("the rehearsal of generation 1 failed, so that", log)
        os.unlink(self.flag)
        wait_until(lambda: not self.status()["rehearsal"], "it has succeeded")
        connection.close()
        self.assertEqual(["exit", "0"], connection.end())
        self.rest()
        self.assertEqual(0, self.status()["totals"]["faults"])

    def test_after_a_change(self):
        """What cannot rehearse does not replace what could: the old zygote stays."""
        self.start_service()
        before = self.status()
        self.fail_from_now_on()
        why = "its rehearsal failed: its client failed (see the service's log)"
        for verb in ("reload", "upgrade"):
            self.assertEqual(["error", "failed", why], self.ask(verb))
        self.check_serves()
        after = self.status()
        for name in ("pid", "zygote", "rehearsal"):
            self.assertEqual(before[name], after[name])
        self.assertContainsString(self.log_text(), f"generation 2 failed: {why}")
        os.unlink(self.flag)
        self.assertEqual(["ok"], self.ask("reload"))
