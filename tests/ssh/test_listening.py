# SPDX-License-Identifier: GPL-2.0-or-later

"""The socket that listens, and the headers that it waits for."""

import logging
import socket

from breezy.tests import TestCase

from ...lpserve.errors import ConfigurationError
from ...lpserve.loginrules import parse_networks
from ...lpserve.ssh.arrivals import Address
from ...lpserve.ssh.listening import HEADER_TIMEOUT, Listener
from .clockreactor import Reactor
from .test_proxyheader import CLIENT, INVALID, SERVER, V4, VALID, version_2

HEADER = version_2(0x11, V4)


class TestListener(TestCase):
    def setUp(self):
        super().setUp()
        self.overrideAttr(logging.getLogger("lpserve"), "disabled", True)
        self.reactor = Reactor()
        self.found = []
        self.listener = Listener(self.reactor, ("127.0.0.1", 0), self.arrived)
        self.listener.proxies = parse_networks("127.0.0.2 127.0.1.0/24")
        self.listener.open()
        self.listener.start()
        self.addCleanup(self.end)

    def arrived(self, made, arrival):
        self.addCleanup(made.close)
        self.found.append((made, arrival))

    def end(self):
        self.listener.close()
        self.reactor.advance(0)
        self.assertEqual([], self.reactor.getDelayedCalls())
        self.assertEqual({}, self.reactor.readers)

    def connect(self, host="127.0.0.2"):
        """A connection from *host*."""
        made = socket.create_connection(self.listener.address, 60, (host, 0))
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.addCleanup(made.close)
        return made

    def take(self):
        """The next connection that has arrived."""
        self.reactor.run_until(lambda: self.found)
        return self.found.pop(0)

    def assertClosed(self, client):
        client.setblocking(False)

        def ended():
            try:
                return client.recv(1) == b""
            except BlockingIOError:
                return False
            except ConnectionError:
                return True

        self.reactor.run_until(ended)
        self.assertEqual([], self.found)

    def test_without_proxy(self):
        """Nothing is read of who is no proxy."""
        client = self.connect("127.0.0.1")
        client.sendall(HEADER)
        made, arrival = self.take()
        self.assertEqual(client.getsockname(), arrival.peer)
        self.assertEqual(self.listener.address, arrival.local)
        self.assertEqual((None, False), (arrival.proxy, arrival.is_probe))
        made.settimeout(60)
        self.assertEqual(HEADER, made.recv(100))

    def test_headers(self):
        """The header is taken, and what comes after it left."""
        for data, source, destination in VALID:
            client = self.connect("127.0.1.7")
            client.sendall(data + b"SSH-")
            made, arrival = self.take()
            proxy = Address(*client.getsockname())
            self.assertEqual(source or proxy, arrival.peer)
            self.assertEqual(destination or self.listener.address, arrival.local)
            self.assertEqual((proxy, not source), (arrival.proxy, arrival.is_probe))
            made.settimeout(60)
            self.assertEqual(b"SSH-", made.recv(100))
            # Single bytes are read again.
            client.sendall(b"!")
            self.assertEqual(b"!", made.recv(100))

    def test_slow(self):
        """Byte for byte, the header is there, and the reactor has rested."""
        for data, _, _ in VALID:
            client = self.connect()
            self.reactor.reads = 0
            for position in range(len(data) - 1):
                client.sendall(data[position : position + 1])
                for _ in range(3):
                    self.reactor.turn()
            self.assertEqual([], self.found)
            client.sendall(data[-1:])
            self.take()
            self.assertTrue(self.reactor.reads <= len(data) + 2, self.reactor.reads)

    def test_left(self):
        """To another process, when the headers are there that it waits for."""
        left = []
        client = self.connect()
        client.sendall(HEADER[:5])
        self.reactor.run_until(lambda: self.listener._waiting)
        self.reactor.turn()
        copy = socket.socket(fileno=self.listener.copy())
        self.addCleanup(copy.close)
        self.listener.leave(lambda: left.append(True))
        self.assertEqual([], left)
        other = self.connect()
        client.sendall(HEADER[5:])
        self.take()
        self.assertEqual([True], left)
        made, address = copy.accept()
        made.close()
        self.assertEqual(other.getsockname(), address)

    def test_too_late(self):
        """Who sends half a header, or nothing, is not waited for longer than others."""
        clients = [self.connect(), self.connect()]
        clients[0].sendall(HEADER[:20])
        self.reactor.run_until(lambda: len(self.reactor.getDelayedCalls()) == 2)
        self.reactor.advance(HEADER_TIMEOUT)
        for client in clients:
            self.assertClosed(client)

    def test_invalid(self):
        for data in INVALID:
            client = self.connect()
            client.sendall(data)
            self.assertClosed(client)

    def test_ended(self):
        """Who leaves before the end of the header is not waited for."""
        for length in (0, 1, 15, len(HEADER) - 1):
            client = self.connect()
            client.sendall(HEADER[:length])
            client.shutdown(socket.SHUT_WR)
            self.assertClosed(client)
            client = self.connect()
            client.sendall(HEADER[:length])
            self.reactor.run_until(lambda: len(self.reactor.readers) == 2)
            linger = b"\1\0\0\0\0\0\0\0"
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            client.close()
            self.reactor.run_until(lambda: len(self.reactor.readers) == 1)
        self.assertEqual([], self.found)

    def test_pause(self):
        """New connections wait; those with half a header go on."""
        first = self.connect()
        self.reactor.run_until(lambda: len(self.reactor.readers) == 2)
        self.listener.pause()
        second = self.connect("127.0.0.1")
        first.sendall(HEADER)
        _, arrival = self.take()
        self.assertEqual((CLIENT, SERVER), (arrival.peer, arrival.local))
        self.reactor.turn()
        self.assertEqual([], self.found)
        self.listener.start()
        self.assertEqual(second.getsockname(), self.take()[1].peer)

    def test_in_use(self):
        """An address that another one has is refused with one line."""
        other = Listener(self.reactor, self.listener.address, self.arrived)
        fault = self.assertRaises(ConfigurationError, other.open)
        wanted = "cannot listen on 127.0.0.1:%d: Address already in use"
        self.assertEqual(wanted % self.listener.address.port, str(fault))
