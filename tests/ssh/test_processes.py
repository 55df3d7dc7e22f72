# SPDX-License-Identifier: GPL-2.0-or-later

"""The processes of lp-serve-ssh, as the front sees them."""

import logging
import os
import signal
import socket
import sys
import time

from breezy.tests import TestCaseInTempDir

from ...lpserve.ssh.arrivals import Address, Arrival
from ...lpserve.ssh.processes import Processes
from .clockreactor import Reactor

#: A process that answers, unless it is the first in its directory.
PROGRAM = """
import os, socket, sys
end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, int(sys.argv[-1]))
try:
    os.close(os.open("first", os.O_CREAT | os.O_EXCL))
    mute = True
except FileExistsError:
    mute = False
end.send(b'{"kind": "ready"}')
while message := end.recv(65536):
    if b'"ping"' in message and not mute:
        end.send(b'{"kind": "pong"}')
    if b'"stop"' in message:
        break
"""


class TestProcesses(TestCaseInTempDir):
    def setUp(self):
        super().setUp()
        self.overrideAttr(logging.getLogger("lpserve"), "disabled", True)
        self.reactor = Reactor()
        self.told = []
        self.made = Processes(self.reactor, 2, [sys.executable, "-c", PROGRAM], {})
        self.made.owner = self
        self.addCleanup(self.end)

    def end(self):
        self.made.stop()
        self.made.kill()
        self.reactor.run_until(lambda: "over" in self.told)
        self.reactor.advance(0)
        self.assertEqual({}, self.reactor.readers)
        self.assertEqual([], self.reactor.getDelayedCalls())

    # What they tell their owner.

    def ready(self):
        self.told.append("ready")

    def unready(self):
        self.told.append("unready")

    def failed(self, why):
        self.told.append(why)

    def over(self):
        self.told.append("over")

    def lost(self, number, fault):
        self.told.append((number, fault))

    def start(self):
        self.made.start()
        self.reactor.run_until(lambda: self.told == ["ready"])
        return list(self.made._processes)

    def serve(self, number):
        """Give them a connection."""
        ours, theirs = socket.socketpair()
        ours.close()
        peer = Address("192.0.2.1", number)
        self.made.serve(theirs, Arrival(time.time(), peer, peer), number)

    def ping(self):
        """Send a ping, and wait for the answer of the one that answers."""
        self.reactor.advance(5.0)
        self.reactor.run_until(lambda: any(not p.silent for p in self.made._processes))

    def test_silent(self):
        """One that does not answer is avoided, then killed and replaced."""
        self.start()
        self.ping()
        mute, other = sorted(self.made._processes, key=lambda p: -p.silent)
        for number in range(1, 5):
            self.serve(number)
        self.assertEqual([2, 2], [len(mute.numbers), len(other.numbers)])
        self.ping()
        for number in range(5, 9):
            self.serve(number)
        self.assertEqual([2, 6], [len(mute.numbers), len(other.numbers)])
        for _ in range(10):
            self.ping()
        self.assertEqual(["ready"], self.told)
        self.reactor.advance(5.0)
        self.reactor.run_until(lambda: mute not in self.made._processes)
        lost = sorted(each for each in self.told if isinstance(each, tuple))
        self.assertEqual([(number, "") for number in sorted(mute.numbers)], lost)
        self.reactor.run_until(lambda: self.told.count("ready") == 2)
        self.assertEqual(6, self.made.connections)

    def all_ready(self):
        """Whether both are ready."""
        return [each.ready for each in self.made._processes] == [True, True]

    def kill_one(self):
        """Kill one; in how many seconds it will be replaced."""
        killed = self.made._processes[0]
        os.kill(killed.pid, signal.SIGKILL)
        self.reactor.run_until(lambda: killed not in self.made._processes)
        launches = self.launches()
        if not launches:
            return 0  # it has been
        (call,) = launches
        return round(call.getTime() - self.reactor.seconds(), 3)

    def test_replaced(self):
        """The first is replaced at once, the next ones after growing pauses."""
        self.start()
        for pause in (0, 0.1, 0.3, 0.7):
            self.assertEqual(pause, self.kill_one())
            self.reactor.advance(pause)
            self.reactor.run_until(self.all_ready)
        self.assertNotIn("unready", self.told)
        # With none that is ready, new connections wait.
        for each in self.made._processes:
            each.kill()
        self.reactor.run_until(lambda: not self.made._processes)
        self.assertEqual("unready", self.told[-1])
        self.reactor.advance(30.0)
        self.reactor.run_until(self.all_ready)
        self.assertEqual("ready", self.told[-1])
        # One that has lived for long is replaced at once again.
        self.reactor.advance(30.0)
        self.assertEqual(0, self.kill_one())

    def launches(self):
        """The calls that will start a process."""
        return [
            each
            for each in self.reactor.getDelayedCalls()
            if getattr(each.func, "__name__", "") == "_launch"
        ]

    def test_stop_at_the_start(self):
        """Who is not ready yet is not waited for."""
        self.made.start()
        self.made.stop()
        self.reactor.run_until(lambda: "over" in self.told)
        self.assertEqual([], self.made._processes)

    def test_first_failure(self):
        """Of two that do not start, the first is why; the second was killed then."""
        self.made._argv = [sys.executable, "-c", "import os; os._exit(7)"]
        self.made.start()
        self.reactor.run_until(lambda: not self.made._processes)
        self.assertEqual(1, len(self.told))

    def test_finish(self):
        """None is replaced any more, and all is over with the last one."""
        first, second = self.start()
        self.serve(1)
        self.made.finish()
        first.kill()
        self.reactor.run_until(lambda: first not in self.made._processes)
        self.reactor.advance(30.0)
        self.assertEqual([second], self.made._processes)
        self.assertNotIn("over", self.told)
        second.kill()
        self.reactor.run_until(lambda: "over" in self.told)
