# SPDX-License-Identifier: GPL-2.0-or-later

"""Trouble that others make for the service: it goes on, or stops with an error."""

import itertools
import os
import signal
import subprocess

from ...harness import DEADLINE, DOORS, LiveTestCase, descriptors_of, wait_until
from .victims import is_gone


class TestTrouble(LiveTestCase):
    def stopped(self, pid):
        """Stop a process; its pid."""
        os.kill(pid, signal.SIGSTOP)
        return pid

    def test_zygote_hangs_in_shutdown(self):
        service = self.start_service()
        self.stopped(self.settled_status()["zygote"])
        self.ask("shutdown", "now")
        self.assertEqual(0, service.wait(DEADLINE))

    def test_zygote_hangs_in_reload(self):
        """The old zygote is killed after a reload."""
        self.start_service()
        old = self.stopped(self.settled_status()["zygote"])
        self.assertEqual(["ok"], self.ask("reload"))
        wait_until(lambda: is_gone(old), "it was ended")
        self.check_serves()

    def test_started_without_streams(self):
        """FAULT 51: started without descriptors 1 and 2, it opens nothing in them."""
        for closed in ("", ">&-", "2>&-", ">&- 2>&-"):
            words = self.brz("lp-serve", "--fork-server", "--directory", self.root)
            self.service = subprocess.Popen(
                ["sh", "-c", f'exec "$@" {closed}', "sh", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=self.env,
            )
            last = os.path.join(self.runtime, DOORS[-1])
            wait_until(lambda: os.path.exists(last), "its doors are open")  # noqa: B023
            self.check_serves()
            self.assertEqual(["ok"], self.ask("reload"))
            opened = descriptors_of(self.service.pid)
            self.assertEqual([os.devnull] * 3, [opened[each] for each in range(3)])
            with open(os.path.join(self.runtime, "lock")) as lock:
                self.assertEqual(f"{self.service.pid}\n", lock.read())
            self.stop_service()

    def test_door_replaced(self):
        """FAULT 60: a service that nobody can reach fails, so that it is restarted."""
        for name in DOORS:
            service = self.start_service()
            path = os.path.join(self.runtime, name)
            os.rename(path, path + ".old")
            with open(path, "w"):
                pass
            self.assertEqual(3, service.wait(DEADLINE))
            last = self.log_text().splitlines()[-1]
            self.assertEqual(f"brz: ERROR: {path} was removed or replaced", last)
            # What has its place stays.
            with open(path):
                os.unlink(path)

    def test_nobody_reads_the_log(self):
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        words = self.brz("lp-serve", "--fork-server", "--directory", self.root)
        self.service = subprocess.Popen(words, env=self.env, stderr=writer)
        os.close(writer)
        self.addCleanup(self.stop_service, self.service)
        last = os.path.join(self.runtime, DOORS[-1])
        wait_until(lambda: os.path.exists(last), "its doors are open")
        for _ in range(2000):
            self.write_control(b"rubbish " + b"x" * 100 + b"\n")
        self.check_serves()
        self.assertEqual(2000, self.status()["refused"]["bad-request"])

    def test_client_does_not_wait_for_its_answer(self):
        """The worker says that the client went away, and is no failure."""
        self.start_service()
        for request, door in itertools.product(
            (b"hello\n", b"bzr request 2\nhello\n"), ("fifo", "socket")
        ):
            connection = self.connect(door=door).open()
            os.close(connection.stdout)
            connection.stdout = -1
            os.write(connection.stdin, request)
            self.assertEqual(["exit", "3"], connection.end())
            told = os.read(connection.stderr, 4096)
            self.assertEqual(b"lp-serve: the client went away\n", told)
            connection.close()
