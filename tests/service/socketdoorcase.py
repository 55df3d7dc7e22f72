# SPDX-License-Identifier: GPL-2.0-or-later

"""What the tests of the socket share: a door in this process, and clients."""

import contextlib
import os
import socket

from ...lpserve import system
from ...lpserve.location import socket_address
from ...lpserve.paths import RuntimeDirectory
from ...lpserve.service.socketdoor import SocketDoor
from ...lpserve.wire import RequestError, encode_answer, encode_error
from .test_loop import LoopTestCase, run_loop_until


class Client:
    """One connection to the socket.

    :ivar lines: the answers that have arrived.
    :ivar ended: whether the service has closed the connection.
    """

    def __init__(self, path):
        self.link = socket.socket(socket.AF_UNIX)
        address, directory = socket_address(path)
        self.link.connect(address)
        if directory >= 0:
            os.close(directory)
        self.link.setblocking(False)
        self.received = b""
        self.ended = False

    def send(self, data, *descriptors):
        socket.send_fds(self.link, [data], descriptors)

    def read(self):
        """Read what has arrived; the answers so far."""
        with contextlib.suppress(BlockingIOError):
            while not self.ended:
                try:
                    data = self.link.recv(65536)
                except ConnectionError:
                    data = b""
                self.received += data
                self.ended = not data
        return self.lines

    @property
    def lines(self):
        return self.received.decode().splitlines()


class SocketDoorTestCase(LoopTestCase):
    """A test with an open door; at its end nothing may be left open.

    :ivar arrived: requests and errors, in order.
    :ivar spawned: the replies to ``spawn``, which the tests answer.
    """

    def setUp(self):
        super().setUp()
        self.directory = RuntimeDirectory(os.path.join(self.test_dir, "run"))
        self.directory.prepare()
        self.arrived = []
        self.spawned = []
        self.logged = []
        self.allowed = set()
        self.door = self.make_door(self.loop)
        self.addCleanup(self.door.close)
        self.before = system.open_descriptors()
        self.watched = set(self.loop._callbacks)
        self.mine = []
        self.clients = []
        self.addCleanup(self.check_nothing_left)

    def make_door(self, loop):
        door = SocketDoor(
            loop, self.directory, self.handle, self.logged.append, lambda: self.allowed
        )
        door.open()
        return door

    def handle(self, request, reply):
        self.arrived.append(request)
        if isinstance(request, RequestError):
            reply.send(encode_error(request.code, request.text))
        elif request.verb == "spawn":
            self.spawned.append(reply)
            return
        else:
            reply.send(encode_answer("ok", request.verb, len(self.arrived)))
        reply.close()

    def check_nothing_left(self):
        """Close our ends, and wait until the door has closed its own."""
        for client in self.clients:
            client.link.close()
        for descriptor in self.mine:
            os.close(descriptor)
        for reply in self.spawned:
            reply.close()
        self.run_until(
            lambda: system.open_descriptors() == self.before, "all is closed"
        )
        self.assertEqual(self.watched, set(self.loop._callbacks))
        self.assertEqual({}, self.door.waiting)

    def run_until(self, ready, what):
        run_loop_until(self.loop, ready, what)

    def connect(self):
        client = Client(self.directory.socket)
        self.clients.append(client)
        return client

    def wait_answers(self, client, count):
        self.run_until(lambda: len(client.read()) >= count, f"{count} answers")
        return client.lines

    def wait_end(self, client):
        """The answers up to the end of the connection."""
        self.run_until(lambda: client.read() is not None and client.ended, "the end")
        return client.lines

    def assertRefused(self, client, *texts, count=1):
        """Each answer so far is bad-request; the last has all *texts*."""
        lines = self.wait_answers(client, count)
        for line in lines:
            self.assertStartsWith(line, "error bad-request ")
        for text in texts:
            self.assertContainsString(lines[-1], text)

    def pipe(self):
        ends = os.pipe()
        self.mine += ends
        return ends

    def opened(self, path, flags):
        self.mine.append(os.open(path, flags))
        return self.mine[-1]

    def stdio(self):
        """Three descriptors as a worker takes them."""
        return self.pipe()[0], self.pipe()[1], self.pipe()[1]
