# SPDX-License-Identifier: GPL-2.0-or-later

"""What systemd is told (sd_notify(3))."""

import signal
import time

from ...harness import DEADLINE
from .systemdcase import SystemdCase


class TestNotify(SystemdCase):
    """``Type=notify-reload``, ``STATUS=``, ``WATCHDOG=1``."""

    def test_life(self):
        service = self.start_service()
        self.assertEqual(
            {
                "READY": "1",
                "MAINPID": str(service.pid),
                "STATUS": "serving; 0 connections, generation 1",
            },
            self.receive(),
        )
        worker = self.connect().open()
        self.wait_for_status("serving; 1 connection, generation 1")
        with open(f"/proc/{worker.pid}/environ", "rb") as file:
            self.assertNotContainsRe(file.read(), b"NOTIFY_SOCKET|WATCHDOG|LISTEN_")
        worker.close()
        self.assertEqual(["exit", "0"], worker.end())
        # Once for each change, and nothing else.
        self.assertEqual(
            {"STATUS": "serving; 0 connections, generation 1"}, self.receive()
        )
        service.terminate()
        self.assertEqual(
            {"STOPPING": "1", "STATUS": "stopping; 0 connections to finish"},
            self.receive(),
        )
        self.assertEqual(0, service.wait(DEADLINE))
        self.assertEqual([], self.receive_all())

    def test_reload(self):
        """Systemd waits for READY=1: the new zygote serves, or nothing has changed."""
        service = self.start_service()
        self.wait_for(READY="1")
        before = time.monotonic_ns() // 1000
        service.send_signal(signal.SIGHUP)
        found = self.receive()
        self.assertEqual(("1", "reloading"), (found["RELOADING"], found["STATUS"]))
        # As the manual wants it: systemd knows by that which reload is meant.
        now = time.monotonic_ns() // 1000
        self.assertTrue(before <= int(found["MONOTONIC_USEC"]) <= now, found)
        ready = self.receive()
        self.assertEqual("1", ready["READY"])
        self.assertEqual("serving; 0 connections, generation 2", ready["STATUS"])
        self.assertEqual(2, self.status()["generation"])
        self.configure(allowed_peers="nobody-at-all")
        service.send_signal(signal.SIGHUP)
        self.wait_for(RELOADING="1")
        self.assertStartsWith(
            self.wait_for(READY="1")["STATUS"],
            "serving; 0 connections, generation 2; the last reload failed: ",
        )
        # One that is asked for during another: READY=1 is said after both.
        self.configure()
        start = len(self.log_text())
        service.send_signal(signal.SIGHUP)
        self.wait_for_log("reloading", start)
        service.send_signal(signal.SIGHUP)
        kinds = []
        while kinds.count("RELOADING") < 3:
            kinds += [each for each in self.receive() if each in ("RELOADING", "READY")]
        self.assertEqual(["RELOADING"] * 3, kinds)
        self.wait_for(READY="1")

    def test_watchdog(self):
        """Of the loop: it ends with it."""
        service = self.start_service(WATCHDOG_USEC="200000")
        for _ in range(3):
            self.wait_for(WATCHDOG="1")
        service.send_signal(signal.SIGSTOP)
        try:
            with open(f"/proc/{service.pid}/stat") as file:
                while file.read().rpartition(")")[2].split()[0] != "T":
                    file.seek(0)
            self.receive_all()
            self.notifications.settimeout(0.5)
            self.assertRaises(TimeoutError, self.receive)
        finally:
            service.send_signal(signal.SIGCONT)
        self.notifications.settimeout(DEADLINE)
        self.wait_for(WATCHDOG="1")
