# SPDX-License-Identifier: GPL-2.0-or-later

"""What a load balancer is told, and that nobody who asks can do harm."""

import socket

from breezy.tests import TestCase

from ...lpserve import system
from ...lpserve.service.agent import Agent, health
from ...lpserve.service.loop import Loop
from ..waiting import wait_until
from .turning import turn


class TestHealth(TestCase):
    """`agent.health`."""

    def test_states(self):
        for expected, state in (
            ("maint", (True, True, False, 0, 0)),
            ("drain", (False, True, False, 0, 0)),
            ("down#no zygote", (False, False, False, 0, 0)),
            ("ready up 100%", (False, False, True, 0, 500)),
            ("ready up 100%", (False, False, True, 200, 0)),
            ("ready up 25%", (False, False, True, 200, 150)),
            ("ready up 1%", (False, False, True, 200, 200)),
            ("ready up 1%", (False, False, True, 200, 900)),
        ):
            self.assertEqual(expected, health(*state))


class TestAgent(TestCase):
    """`agent.Agent`, with real connections."""

    def setUp(self):
        super().setUp()
        self.loop = Loop(self.fail)
        self.addCleanup(self.loop.close)
        self.word = "ready up 100%"
        self.agent = Agent(self.loop, lambda: self.word)
        self.addCleanup(self.agent.close)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = free.getsockname()

    def turn(self, done):
        turn(self.loop, done)

    def ask(self, text=b""):
        """What one connection reads."""
        with socket.create_connection(self.address) as link:
            link.sendall(text)
            link.setblocking(False)
            got = []

            def read():
                try:
                    got.append(link.recv(100))
                except BlockingIOError:
                    return False
                return not got[-1]

            self.turn(read)
            return b"".join(got)

    def test_answers(self):
        """Each is answered with what is true now, whatever it sends."""
        self.agent.listen(self.address)
        before = system.open_descriptors()
        self.assertEqual(b"ready up 100%\n", self.ask())
        self.word = "drain"
        self.assertEqual(b"drain\n", self.ask(b"GET / HTTP/1.0\r\n\r\n" * 10))
        silent = [socket.create_connection(self.address) for _ in range(50)]
        self.assertEqual(b"drain\n", self.ask())
        for each in silent:
            each.close()
        wait_until(lambda: system.open_descriptors() == before, "all are closed")

    def test_taken(self):
        """It listens as soon as another process does not any more."""
        with socket.create_server(self.address):
            self.agent.listen(self.address)
            self.assertContainsString(self.agent.fault, "Address already in use")
        self.turn(lambda: not self.agent.fault)
        self.assertEqual(b"ready up 100%\n", self.ask())
        self.agent.pause()
        self.agent.listen(None)
        self.agent.listen(self.address)
        self.assertRaises(ConnectionRefusedError, self.ask)
        self.agent.go_on()
        self.assertEqual(b"ready up 100%\n", self.ask())
        self.agent.listen(None)
        self.assertRaises(ConnectionRefusedError, self.ask)
