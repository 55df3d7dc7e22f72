# SPDX-License-Identifier: GPL-2.0-or-later

"""The socket itself: who may connect, how long it waits, and how it closes."""

import contextlib
import os
import socket
import stat
import subprocess
import sys

from ...lpserve import system
from ...lpserve.paths import RuntimeDirectory
from ...lpserve.service import socketdoor
from ...lpserve.wire import encode_answer
from .socketdoorcase import Client, SocketDoorTestCase

NOBODY = 65534

#: Sends lines that mean nothing for as long as they are taken.
FLOOD = """
import signal, socket, sys
signal.alarm(600)
link = socket.socket(socket.AF_UNIX)
link.connect(sys.argv[1])
link.sendall(b"\\n" * 131072 + b"hello\\n")
while True:
    link.sendall(b"\\n" * 65536)
"""


class TestDoor(SocketDoorTestCase):
    """The socket itself, and who gets to it."""

    def modes(self):
        paths = (self.directory.path, self.directory.socket)
        return [stat.S_IMODE(os.stat(path).st_mode) for path in paths]

    def test_modes(self):
        """Private whatever the umask, unless others are let in."""
        self.addCleanup(os.umask, os.umask(0))
        self.assertEqual([0o700, 0o600], self.modes())
        self.assertEqual(
            ["connections", "replies", "socket"],
            sorted(os.listdir(self.directory.path)),
        )
        self.allowed.add(NOBODY)
        self.door.admit()
        self.assertEqual([0o711, 0o666], self.modes())
        self.allowed.clear()
        self.door.admit()
        self.assertEqual([0o700, 0o600], self.modes())

    def test_peers(self):
        """Somebody else is told at once, and heard only if let in."""
        self.allowed.add(NOBODY + 1)
        self.door.admit()
        theirs = self.connect_as(NOBODY)
        theirs_lines = self.wait_end(theirs)
        self.assertEqual(1, len(theirs_lines))
        self.assertStartsWith(theirs_lines[0], "error denied ")
        self.assertEqual(["denied"], [each.code for each in self.arrived])
        self.allowed.add(NOBODY)
        theirs = self.connect_as(NOBODY)
        theirs.send(b"hello\n")
        self.assertStartsWith(self.wait_answers(theirs, 1)[0], "ok hello ")

    def connect_as(self, uid):
        """Connect as the user *uid*, or, if we are not root, as not the door's user."""
        if os.geteuid() != 0:
            self.door._uid = os.geteuid() + 1
            let_in = uid in self.allowed
            self.allowed.discard(os.geteuid())
            if let_in:
                self.allowed.add(os.geteuid())
            return self.connect()
        here = os.getcwd()
        os.chdir(self.directory.path)
        os.seteuid(uid)
        try:
            self.clients.append(Client("socket"))
        finally:
            os.seteuid(0)
            os.chdir(here)
        return self.clients[-1]

    def test_sweep(self):
        """Only clients that have sent no whole request are told, and disconnected."""
        idle, half, deaf = self.connect(), self.connect(), self.connect()
        waits, other = self.connect(), self.connect()
        half.send(b"spawn alice", *self.stdio())
        waits.send(b"spawn alice\n", *self.stdio())
        other.send(b"hello\n")
        self.run_until(lambda: len(self.arrived) == 2, "two requests")
        self.fill(deaf)
        self.door.handle = self.handle
        self.door.sweep()
        self.assertEqual(([], False), (idle.read(), idle.ended))
        self.overrideAttr(socketdoor, "PATIENCE", 0.0)
        self.door.sweep()
        for client in (idle, half, other):
            last = self.wait_end(client)[-1]
            self.assertContainsString(last, "error bad-request 'no complete request")
        self.wait_end(deaf)
        self.assertEqual([], waits.read())
        self.assertFalse(waits.ended)

    def fill(self, client):
        """Ask for more than is read, until nothing more is taken."""
        answers = len(self.arrived)
        self.door.handle = self.answer_at_length
        for _ in range(100):
            with contextlib.suppress(BlockingIOError):
                while True:
                    client.link.send((b"status".ljust(999) + b"\n") * 3)
            rounds = len(self.arrived)
            self.loop.call_later(0.01, self.loop.stop)
            self.loop.run()
            if rounds == len(self.arrived) > answers:
                return
        self.fail("there is no end to what is taken")

    def answer_at_length(self, request, reply):
        self.arrived.append(request)
        reply.send(encode_answer("ok", len(self.arrived), "x" * 2000))
        reply.close()

    def test_nobody_reads(self):
        """While a client reads no answers its requests wait; others are answered."""
        deaf = self.connect()
        self.fill(deaf)
        first = len(self.arrived)
        # What the kernel keeps of it is no more than a socket holds.
        self.assertTrue(first * 2000 < 1 << 20, first)
        quick = self.connect()
        quick.send(b"status\n")
        self.wait_answers(quick, 1)
        deaf.link.shutdown(socket.SHUT_WR)
        numbers = [int(line.split()[1]) for line in self.wait_end(deaf)[:-1]]
        self.assertEqual(sorted(numbers), numbers)
        self.assertEqual(len(self.arrived), len(numbers) + 2)

    def test_flood(self):
        """FAULT 11: a client that sends without end does not delay others."""
        words = [sys.executable, "-I", "-S", "-c", FLOOD]
        flood = subprocess.Popen([*words, "socket"], cwd=self.directory.path)
        try:
            self.run_until(lambda: self.arrived, "it has begun")
            for _ in range(20):
                quick = self.connect()
                quick.send(b"hello\n")
                self.wait_answers(quick, 1)
            self.assertIs(None, flood.poll())
        finally:
            flood.kill()
            flood.wait()

    def test_close(self):
        """FAULT 16: requests that were sent before are answered."""
        early, silent = self.connect(), self.connect()
        self.run_until(lambda: len(self.door.waiting) == 2, "both are in")
        early.send(b"hello\n")
        late = [self.connect() for _ in range(100)]
        for client in late:
            client.send(b"hello\n")
        listener = self.door._listener.fileno()
        self.door.close()
        self.watched.remove(listener)
        self.before.remove(listener)
        for client in (early, *late):
            self.assertEqual(1, len(self.wait_end(client)))
        self.assertEqual([], self.wait_end(silent))
        self.assertPathDoesNotExist(self.directory.socket)
        self.door.close()

    def test_long_path(self):
        """It may be longer than the address of a socket can be."""
        before = system.open_descriptors()
        self.directory = RuntimeDirectory(os.path.join(self.test_dir, *["long"] * 40))
        self.directory.prepare()
        self.assertTrue(len(self.directory.socket) > 108)
        door = self.make_door(self.loop)
        client = self.connect()
        client.send(b"hello\n")
        self.wait_answers(client, 1)
        self.assertTrue(door.in_place)
        door.close()
        self.assertPathDoesNotExist(self.directory.socket)
        client.link.close()
        self.run_until(lambda: system.open_descriptors() == before, "all is closed")
