# SPDX-License-Identifier: GPL-2.0-or-later

"""An upgrade of a service of systemd's: ``MAINPID=`` of sd_notify(3)."""

import os

from ...harness import DEADLINE, HELLO, wait_until
from .systemdcase import SystemdCase


class TestUpgraded(SystemdCase):
    door = "socket"

    def test_upgraded(self):
        """The old one names the new one, which says that it is ready; then it ends."""
        self.make_doors()
        before = self.start_service()
        self.wait_for(READY="1", MAINPID=str(before.pid))
        held = self.connect("alice")
        self.assertEqual(HELLO, held.hello())
        self.assertEqual("ok", self.ask("upgrade")[0])
        after = self.status()["pid"]
        self.assertNotEqual(before.pid, after)
        self.assertEqual({"MAINPID": str(after)}, self.wait_for(MAINPID=str(after)))
        found = self.wait_for(READY="1")
        self.assertEqual(str(after), found["MAINPID"])
        self.assertEqual(HELLO, held.hello())
        held.close()
        self.assertEqual(["exit", "0"], held.end())
        self.assertEqual(0, before.wait(DEADLINE))
        # What has told systemd so far tells it nothing more.
        told = [each.get("MAINPID") for each in self.receive_all()]
        self.assertNotIn(str(before.pid), told)
        self.assertEqual(["ok"], self.ask("shutdown"))
        wait_until(lambda: not os.path.exists(f"/proc/{after}"), "it has ended")
        # Its doors are systemd's still.
        self.assertTrue(os.path.exists(os.path.join(self.runtime, "socket")))
