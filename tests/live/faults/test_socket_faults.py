# SPDX-License-Identifier: GPL-2.0-or-later

"""Faults at the socket of a real service; after each nothing may be left."""

import contextlib
import os
import signal

from ...harness import HELLO, read_line, wait_until
from ..spawning.socketcase import BUSY_HOUSE, SocketTestCase

#: A plug-in with which a zygote does not become one while nobody writes to a FIFO.
LATE_ZYGOTE = """
import os, sys

def posix_spawn(*words, file_actions, real=os.posix_spawn, **keywords):
    if os.path.exists(os.environ["GATE"]):
        late = os.POSIX_SPAWN_OPEN, 0, os.environ["GATE"], os.O_RDONLY, 0
        file_actions = [late, *file_actions]
    return real(*words, file_actions=file_actions, **keywords)

if "--fork-server" in sys.argv:
    os.posix_spawn = posix_spawn
"""


class TestLeaving(SocketTestCase):
    """FAULT 12: the client goes at any moment, with or without closing its stdio."""

    def test_every_moment(self):
        self.start_service()
        before = self.rest()
        processes = len(self.processes())
        for number in range(len(b"spawn alice\n") + 1):
            link = self.link()
            link.request(upto=number) if number else None
            link.close()
        pids = []
        for ways in (("socket",), ("stdio",), ("socket", "stdio"), ("stdio", "socket")):
            for written in (b"", b"hel", b"hello\n", b"hello\n" * 3, b"\xff" * 9):
                link = self.link().spawn()
                os.write(link.stdin, written)
                if written == b"hello\n":
                    self.assertEqual(HELLO, read_line(link.stdout))
                for way in ways:
                    (link.socket.close if way == "socket" else link.close_stdio)()
                pids.append((link, written))
        # A worker would wait for the rest of half a request.
        for link, _ in pids:
            link.close_stdio()
        ends = {self.wait_for_end(link.pid) for link, _ in pids}
        # A worker that has no handler yet is ended by the signal itself.
        self.assertEqual(set(), ends - {"exit 0", "exit 3", "signal 1"})
        # The client goes when it has closed the worker's standard input.
        for _ in range(10):
            link = self.link().spawn()
            link.close_stdio()
            link.close()
        status = self.assertNothingGone(before)
        self.assertEqual(0, status["workers"]["busy"])
        self.check_serves()
        wait_until(lambda: len(self.processes()) == processes, "the same processes")
        self.check_twice()
        self.assertNothingGone(before)

    def check_twice(self):
        """A second SIGHUP, to a worker or the service, changes nothing."""
        link = self.link().spawn()
        self.assertEqual(HELLO, link.hello())
        for _ in range(2):
            with contextlib.suppress(ProcessLookupError):  # it ended with the first
                os.kill(link.pid, signal.SIGHUP)
        link.socket.close()
        self.assertEqual("exit 0", self.wait_for_end(link.pid))
        kept = self.link().spawn()
        for _ in range(2):
            self.service.send_signal(signal.SIGHUP)
        # The kernel may make one of both.
        wait_until(lambda: self.status()["generation"] > 1, "a new zygote")
        self.assertEqual(HELLO, kept.hello())
        self.assertEqual([["exit", "0"]], kept.end())


class TestKilledAsItStartsAZygote(SocketTestCase):
    """A process that becomes a zygote holds the socket of its killed service."""

    def test_client(self):
        """A client connects to nobody, and reads the end when the zygote starts."""
        gate = os.path.join(self.test_dir, "gate")
        self.add_plugin("late", LATE_ZYGOTE)
        self.start_service(GATE=gate)
        self.rest()
        os.mkfifo(gate)
        os.kill(self.status()["zygote"], signal.SIGKILL)

        def starting():
            commands = self.processes().values()
            return sum("--fork-server" in command for command in commands) == 2

        wait_until(starting, "a process that is to become a zygote")
        self.kill_service()
        link = self.link()
        link.request()
        with open(gate, "w"):
            pass
        self.assertEqual([], link.answer())
        self.wait_until_refused()
        self.remove_doors()


class TestKeepingHouse(SocketTestCase):
    def test_idle(self):
        """Hundreds of clients send nothing, or half a request; others are served."""
        self.add_plugin("busy_house", BUSY_HOUSE)
        self.start_service()
        before = self.rest()
        kept = self.link().spawn()
        links = [self.link() for _ in range(300)]
        for link in links[::2]:
            link.send(b"spawn alice env.LANG")
        self.check_serves()
        for link in links:
            answer = link.answer()
            self.assertEqual(["error", "bad-request"], answer[:2])
            self.assertContainsString(answer[2], "no complete request")
            self.assertEqual([], link.answer())
        self.assertEqual(HELLO, kept.hello())
        self.assertEqual([["exit", "0"]], kept.end())
        self.assertNothingGone(before)
