# SPDX-License-Identifier: GPL-2.0-or-later

"""A host is taken out of service, and put back."""

import os

from breezy.tests.scenarios import load_tests_apply_scenarios

from ...harness import wait_until
from ..client.fake_service import HELLO, PROGRAMS, ClientTestCase

load_tests = load_tests_apply_scenarios


class TestDrain(ClientTestCase):
    scenarios = PROGRAMS

    def control(self, *words):
        return self.run_brz("lp-serve-control", *words)

    def assertRefused(self, message, *options):
        done = self.run_program(self.client_words("alice", *options), b"hello\n")
        line = f"{self.program}: {message}\n".encode()
        self.assertEqual((75, b"", line), (done.returncode, done.stdout, done.stderr))

    def assertServed(self, *options):
        done = self.run_program(self.client_words("alice", *options), b"hello\n")
        self.assertEqual((0, HELLO), (done.returncode, done.stdout), done.stderr)

    def test_drain(self):
        """Over a restart, and with no service: running connections finish."""
        self.configure(directory=self.root)
        self.start_service()
        running = self.connect().open()
        self.control("drain", "back=12:00", "at noon")
        for door in "fifo", "socket":
            self.assertRefused("back=12:00 at noon", "--door", door)
        self.assertEqual("back=12:00 at noon", self.status()["drained"])
        self.assertEqual(HELLO, running.hello())
        running.close()
        self.assertEqual(["exit", "0"], running.end())
        self.stop_service()
        self.assertRefused("back=12:00 at noon")
        self.assertRefused("back=12:00 at noon", "--no-fallback")
        self.start_service()
        self.assertRefused("back=12:00 at noon")
        self.control("resume")
        self.assertServed("--no-fallback")

    def test_no_service(self):
        """The state is changed all the same, and before autostart is thought of."""
        self.configure(directory=self.root, autostart=True)
        os.mkdir(self.runtime, 0o700)
        self.control("drain")
        self.assertRefused("the server is out of service, try again later")
        self.control("resume")
        self.configure(directory=self.root)
        self.assertServed()

    def test_file(self):
        """A running service sees what is done to the file; links are not followed."""
        self.configure(directory=self.root)
        self.start_service()
        path = os.path.join(self.runtime, "drained")
        with open(path, "w") as file:
            file.write("one\x1b line\nand another\n")
        wait_until(lambda: self.status()["drained"] == "one? line", "it is seen")
        self.assertRefused("one? line")
        os.unlink(path)
        wait_until(lambda: self.status()["drained"] is None, "it is seen")
        self.stop_service()
        os.symlink("/etc/hostname", path)
        self.assertRefused("the server is out of service, try again later")

    def test_fallback_off(self):
        """As with --no-fallback."""
        self.configure(directory=self.root, fallback=False)
        done = self.run_program(self.client_words("alice"), b"hello\n")
        self.assertEqual((69, b""), (done.returncode, done.stdout))
        self.assertContainsString(done.stderr, b"no service")
