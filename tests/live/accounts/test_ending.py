# SPDX-License-Identifier: GPL-2.0-or-later

"""``end``: an administrator ends connections, and their users are told."""

import os
import signal

from ...harness import BY_DOOR, DEADLINE, read_line, wait_until
from .test_connections import AccountsTestCase

LINE = b"lp-serve: the administrator has ended this connection\n"
#: A verb that is served until a file is there.
SLOW = """
import os, time
from breezy.bzr.smart import request
def slowly(self):
    # Zygotes and spare workers say hello, too.
    while os.environ.get("LPSERVE_USER") == "alice" and not os.path.exists("go on"):
        time.sleep(0.01)  # until the test makes the file
    return request.SuccessfulSmartServerResponse((b"ok", b"2"))
request.HelloRequest.do = slowly
"""


class TestEnd(AccountsTestCase):
    def read_rest(self, connection):
        text = b""
        while data := os.read(connection.stderr, 4096):
            text += data
        return text

    def test_idle(self):
        """At once, whatever the door; nobody else's."""
        self.start_service()
        other = self.connect("bob").open()
        for door, _ in BY_DOOR:
            for by_pid in (True, False):
                connection = self.connect("alice", door).open()
                self.assertEqual(b"ok\x012\n", connection.hello())
                who = str(connection.pid) if by_pid else "alice"
                self.assertEqual(["ok", "1"], self.ask("end", who))
                self.assertEqual(["exit", "0"], connection.end())
                self.assertEqual(LINE, self.read_rest(connection))
        self.assertEqual({"evicted"}, {each["how"] for each in self.told(4)})
        self.wait_for_totals(evicted=4, ended=0, failed=0)
        self.assertEqual(b"ok\x012\n", other.hello())
        other.close()
        self.assertEqual(["ok", "0"], self.ask("end", "alice"))

    def start_slow(self, door, **options):
        """A connection in the middle of a request."""
        connection = self.connect("alice", door).open()
        os.write(connection.stdin, b"hello\n")
        self.running(state="busy", verb="hello")
        return connection

    def test_busy(self):
        """It finishes its request; SIGTERM comes when that takes too long, or now."""
        self.add_plugin("slow", SLOW)
        self.start_service("-Olpserve.hangup_timeout=0.5")
        for door, _ in BY_DOOR:
            connection = self.start_slow(door)
            self.assertEqual(["ok", "1"], self.ask("end", "alice"))
            self.assertEqual(LINE, read_line(connection.stderr))
            self.assertEqual(["signal", "15"], connection.end())
        self.configure(hangup_timeout=DEADLINE)
        self.stop_service()
        self.start_service()
        for door, _ in BY_DOOR:
            connection = self.start_slow(door)
            self.assertEqual(["ok", "1"], self.ask("end", "alice", "now"))
            self.assertEqual(["signal", "15"], connection.end())
            self.assertEqual(LINE, self.read_rest(connection))
        connection = self.start_slow("socket")
        self.assertEqual(["ok", "1"], self.ask("end", "alice"))
        self.assertEqual(LINE, read_line(connection.stderr))
        self.assertEqual("ending", self.running(user="alice")["state"])
        with open(os.path.join(self.home, "go on"), "w"):
            pass
        self.assertEqual(b"ok\x012\n", read_line(connection.stdout))
        self.assertEqual(["exit", "0"], connection.end())

    def test_again_and_again(self):
        """Who is told to end many times has no more time for it."""
        self.start_service()
        connection = self.connect("alice").open()
        os.kill(connection.pid, signal.SIGSTOP)  # it does nothing of its own accord

        def gone():
            return self.ask("end", "alice", "now") == ["ok", "0"]

        wait_until(gone, "it has ended")
        self.assertEqual("signal", connection.end()[0])

    def test_nobody(self):
        """The command says how many, and fails if there are none."""
        self.start_service()
        done = self.run_program(self.brz("lp-serve-control", "end", "alice"))
        self.assertEqual(1, done.returncode, done.stderr)
        self.assertIn(b": no connection of alice\n", done.stderr)
        connection = self.connect("alice").open()
        done = self.run_brz("lp-serve-control", "end", "alice", "--now")
        self.assertEqual(b"1 connections are told to end\n", done.stdout)
        self.assertEqual(["signal", "15"], connection.end())
