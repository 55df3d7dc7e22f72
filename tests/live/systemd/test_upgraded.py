# SPDX-License-Identifier: GPL-2.0-or-later

"""An upgrade of a service of systemd's: ``MAINPID=`` of sd_notify(3)."""

import os
import signal

from ...harness import DEADLINE, HELLO, wait_until
from ..ssh.logincase import EndCase
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


class TestUpgradedSsh(EndCase, SystemdCase):
    """The same of lp-serve-ssh; there is no service."""

    def test_upgraded(self):
        env = {"NOTIFY_SOCKET": self.notify_name, "WATCHDOG_USEC": "200000"}
        self.start_server(**env)
        before, listens = self.server.pid, f"Listening on 127.0.0.1:{self.server.port}"
        found = self.wait_for(READY="1")
        self.assertEqual((str(before), listens), (found["MAINPID"], found["STATUS"]))
        held = self.log_in()
        # An upgrade that fails ends as a reload that does.
        self.configure(max_startups="many")
        self.server.signal(signal.SIGUSR2)
        status = self.wait_for(READY="1")["STATUS"]
        self.assertStartsWith(status, f"{listens}; the last upgrade failed: Bad value")
        self.configure()
        self.server.signal(signal.SIGUSR2)
        found = self.wait_for(STATUS=listens)
        after = int(found["MAINPID"])
        self.assertNotEqual(before, after)
        self.receive_all()
        self.wait_for(WATCHDOG="1")
        self.assertRefuses(held)
        # Systemd knows the new one: what the old one is told is for it alone.
        self.server.signal(signal.SIGHUP)
        self.server.signal(signal.SIGTERM)
        held.join(DEADLINE)
        self.assertEqual(0, self.server.wait())
        self.receive_all()
        self.wait_for(WATCHDOG="1")
        self.log_in().close()
        os.kill(after, signal.SIGTERM)
        self.wait_for(STATUS="stopping; sessions that may finish: 0")
        wait_until(lambda: not os.path.exists(f"/proc/{after}"), "it has ended")

    def stop_server(self):
        """See `ConchTestCase`; here an upgrade has failed."""
