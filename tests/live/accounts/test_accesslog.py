# SPDX-License-Identifier: GPL-2.0-or-later

"""The access log of a service."""

import json
import os
import signal

from ...harness import wait_until
from .test_connections import AccountsTestCase


class TestAccessLog(AccountsTestCase):
    def setUp(self):
        super().setUp()
        self.path = os.path.join(self.test_dir, "access.log")

    def start(self, path):
        self.configure(access_log=path)
        self.start_service()

    def serve(self, user):
        made = self.connect(user).open()
        made.close()
        self.assertEqual(["exit", "0"], made.end())

    def users(self, path):
        """Whose connections are in the file *path*."""
        with open(path, encoding="utf-8") as file:
            return [json.loads(line)["user"] for line in file]

    def wait_for_users(self, path, *users):
        wait_until(lambda: self.users(path) == list(users), f"{users} in {path}")

    def test_reopened(self):
        """By a request, a signal and a reload; each line is what the history has."""
        self.start(self.path)
        expected = []
        for number, reopen in enumerate(
            (
                lambda: self.run_brz("lp-serve-control", "reopen"),
                lambda: self.service.send_signal(signal.SIGUSR1),
                lambda: self.ask("reload"),
            )
        ):
            self.serve(f"user{number}")
            self.wait_for_users(self.path, f"user{number}")
            with open(self.path, encoding="utf-8") as file:
                expected += map(json.loads, file)
            self.assertEqual(0, os.stat(self.path).st_mode & 0o037)
            os.rename(self.path, f"{self.path}.{number}")
            reopen()
            wait_until(lambda: os.path.exists(self.path), "a new one")
        self.assertEqual(expected, self.tell("history"))

    def test_full_disk(self):
        """Nobody waits; it is said once, and the lines that are lost are counted."""
        self.start("/dev/full")
        for user in ("one", "two"):
            self.serve(user)
        self.told(2)
        fault = "cannot be written: No space left on device"
        self.assertEqual(1, self.log_text().count(fault))
        found = self.status()["access_log"]
        self.assertEqual(("/dev/full", 2, fault), tuple(found.values()))
        self.assertEqual(2, self.tell("metrics")["access_log_lost"])

    def test_fifo_that_nobody_reads(self):
        os.mkfifo(self.path)
        self.start(self.path)
        self.serve("one")
        self.told(1)
        self.assertEqual(1, self.status()["access_log"]["lost"])
        reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        self.ask("reopen")
        self.serve("two")
        self.told(2)
        self.assertEqual("two", json.loads(os.read(reader, 65536))["user"])

    def test_refused(self):
        """Where clients could write to it, and through a link."""
        os.symlink("/etc/passwd", self.path)
        inside = os.path.join(self.root, "log")
        for path, why in (
            (self.path, "is a symbolic link"),
            (inside, f"is inside {self.root}"),
            ("access.log", "must be an absolute path"),
        ):
            self.configure(access_log=path)
            words = ("lp-serve", "--fork-server", "--directory", self.root)
            done = self.run_program(self.brz(*words))
            self.assertEqual(3, done.returncode)
            self.assertIn("lpserve.access_log", done.stderr.decode())
            self.assertIn(why, done.stderr.decode())
