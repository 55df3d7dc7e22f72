# SPDX-License-Identifier: GPL-2.0-or-later

"""FAULT 62: the log names who told the service to stop, and who was refused."""

import os
import pwd
import signal
import time

from ....lpserve.client import socketconversation
from ...harness import DEADLINE, LiveTestCase, wait_until


class TestWhoAsked(LiveTestCase):
    def setUp(self):
        super().setUp()
        name = pwd.getpwuid(os.getuid()).pw_name
        self.us = f"{name} (uid {os.getuid()}, pid {os.getpid()})"

    def ask_socket(self, *words):
        """One request at the socket, from this process; the words of its answer."""
        asking = socketconversation.SocketConversation(self.runtime)
        self.addCleanup(asking.close)
        asking.send(list(words), time.monotonic() + DEADLINE)
        return asking.wait_answer(time.monotonic() + DEADLINE)

    def test_shutdown(self):
        for tell, by in (
            (lambda: self.ask_socket("shutdown"), f", asked for by {self.us}"),
            (
                lambda: self.ask_socket("shutdown", "now"),
                f" now, asked for by {self.us}",
            ),
            (lambda: self.ask("shutdown"), ", asked for by somebody at the FIFO"),
            (
                lambda: self.service.send_signal(signal.SIGTERM),
                ", asked for by SIGTERM",
            ),
            (lambda: self.service.send_signal(signal.SIGINT), ", asked for by SIGINT"),
        ):
            service = self.start_service()
            start = len(self.log_text())
            tell()
            self.assertEqual(0, service.wait(DEADLINE))
            self.assertIn(f" INFO shutdown{by}\n", self.log_text(start))

    def test_reload(self):
        self.start_service()
        self.assertEqual(["ok"], self.ask_socket("reload"))
        self.assertEqual(["ok"], self.ask("reload"))
        self.service.send_signal(signal.SIGHUP)
        for by in (self.us, "somebody at the FIFO", "SIGHUP"):
            self.wait_for_log(f" INFO reload, asked for by {by}\n")
        wait_until(lambda: self.status()["generation"] == 4, "the last reload")

    def test_refused(self):
        self.start_service()
        answer = self.ask_socket("spawn", "alice", "env.PATH=/tmp")
        self.assertEqual("error", answer[0])
        self.ask_socket("spawn", "../alice")
        self.ask("spawn", "alice", "env.PATH=/tmp")
        self.write_control(b"x\x1b[2J\xc2\x85y\n")
        for line in (
            "refused: bad-request: spawn takes three descriptors on the socket (stdin, "
            f"stdout, stderr), not 0; asked by {self.us}\n",
            "refused: denied: PATH is not in lpserve.environment; asked by somebody "
            "at the FIFO for spawn alice\n",
            "refused: bad-request: unknown verb 'x\\x1b[2J\\x85y'; ",
        ):
            self.wait_for_log(line)
