# SPDX-License-Identifier: GPL-2.0-or-later

"""Requests and descriptors at the socket, in a loop of this process."""

import errno
import os
import socket
import stat
import struct

from ...lpserve.service import stdio
from ...lpserve.wire import MAX_REQUEST
from .socketdoorcase import SocketDoorTestCase


class TestRequests(SocketDoorTestCase):
    """Requests are answered in order, in whatever pieces they come."""

    def test_hundreds_at_once(self):
        client, other = self.connect(), self.connect()
        client.send(b"hello\n\n \t\r\nstatus\n" * 300)
        other.send(b"hello\n")
        expected = [f"ok {('hello', 'status')[n % 2]}" for n in range(600)]
        lines = self.wait_answers(client, 600)
        self.assertEqual(expected, [line.rpartition(" ")[0] for line in lines])
        self.assertEqual(1, len(self.wait_answers(other, 1)))

    def test_byte_by_byte(self):
        """FAULT 11: others are answered meanwhile; descriptors come with any part."""
        slow = self.connect()
        stdio = self.stdio()
        line = b"spawn 'alice' env.LANG=\xc3\xa9\n"
        for number in range(len(line)):
            slow.send(line[number : number + 1], *(stdio if number == 3 else ()))
            quick = self.connect()
            quick.send(b"hello\n")
            self.wait_answers(quick, 1)
        self.run_until(lambda: self.spawned, "the slow one has arrived")
        request = self.arrived[-1] if self.arrived[-1].verb == "spawn" else None
        request = request or self.arrived[-2]
        self.assertEqual((("alice",), {"LANG": "é"}), (request.words, request.env))
        self.assertEqual(4, len(self.spawned[0].attached))

    def test_half_closed(self):
        """A client that has shut its side down is still answered."""
        client = self.connect()
        client.send(b"hello\nstatus\n")
        client.link.shutdown(socket.SHUT_WR)
        self.assertEqual(["ok hello 1", "ok status 2"], self.wait_end(client))
        waits = self.connect()
        waits.send(b"spawn alice\n", *self.stdio())
        waits.link.shutdown(socket.SHUT_WR)
        self.run_until(lambda: self.spawned, "the spawn")
        gone = []
        self.spawned[0].on_disconnect = lambda: gone.append(True)
        self.loop.call_later(0.02, lambda: self.spawned[0].send(b"ok 1\n"))
        self.wait_answers(waits, 1)
        self.assertEqual([], gone)
        self.assertTrue(self.spawned[0].send(b"exit 0\n"))
        self.spawned[0].close()
        self.assertEqual(["ok 1", "exit 0"], self.wait_end(waits))

    def test_half_a_line(self):
        client = self.connect()
        client.send(b"hello\nstat")
        client.link.shutdown(socket.SHUT_WR)
        lines = self.wait_end(client)
        self.assertEqual("ok hello 1", lines[0])
        self.assertContainsString(
            lines[1], "error bad-request 'the request has no newline"
        )
        self.assertEqual(2, len(lines))

    def test_refused(self):
        """FAULT 13: a bad request is answered, and the next one is good."""
        client = self.connect()
        bad = (b"quit", b"hello \0", b"hello \xff", b"hello 'x", b"hello reply=me")
        for count, line in enumerate(bad, 1):
            client.send(line + b"\n")
            self.assertRefused(client, count=count)
        self.assertContainsString(client.lines[-1], "reply has no place")
        client.send(b"hello\n")
        self.assertEqual("ok hello 6", self.wait_answers(client, 6)[-1])

    def test_too_long(self):
        """A line that is too long ends the connection."""
        line = b"spawn alice env.LANG=".ljust(MAX_REQUEST - 1, b"x") + b"\n"
        client = self.connect()
        client.send(line, *self.stdio())
        self.run_until(lambda: self.spawned, "the longest arrived")
        for late in (b"", b"\n", b"x" * 5000):
            client = self.connect()
            client.send(line[:-1] + b"x" + late, *self.stdio())
            self.assertRefused(client, f"at most {MAX_REQUEST} bytes")
        without_end = self.connect()
        without_end.send(b"x" * 100000)
        self.assertEqual(1, len(self.wait_end(without_end)))

    def test_answer_of_a_handler_that_fails(self):
        """An answer is sent although its handler raises after it."""
        handle, client = self.handle, self.connect()
        self.door.handle = lambda *args: (handle(*args), 1 / 0)
        client.send(b"hello\nhello\n")
        self.assertEqual(["ok hello 1", "ok hello 2"], self.wait_answers(client, 2))
        self.assertEqual(2, len(self.failures))
        self.failures.clear()


class TestDescriptors(SocketDoorTestCase):
    """Descriptors that are attached to requests; those not used are closed."""

    def spawn(self, *descriptors):
        client = self.connect()
        client.send(b"spawn alice\n", *descriptors)
        return client

    def test_three(self):
        """The three are not inheritable, and are closed when handed over."""
        ends = [self.pipe(), self.pipe(), self.pipe()]
        stdio = ends[0][0], ends[1][1], ends[2][1]
        self.spawn(*stdio)
        self.run_until(lambda: self.spawned, "the spawn")
        link, *attached = self.spawned[0].attached
        for ours, theirs in zip(stdio, attached, strict=True):
            self.assertTrue(os.path.samestat(os.fstat(ours), os.fstat(theirs)))
            self.assertFalse(os.get_inheritable(theirs))
        self.assertTrue(stat.S_ISSOCK(os.fstat(link).st_mode))
        self.spawned[0].hand_over()
        self.assertEqual((), self.spawned[0].attached)
        for number in attached:
            self.assertRaises(OSError, os.fstat, number)

    def test_closed_at_once(self):
        """SO_LINGER of a socket that is closed is cleared, so that nobody waits."""
        linger = socket.SOL_SOCKET, socket.SO_LINGER
        with socket.create_server(("127.0.0.1", 0)) as server:
            one = socket.create_connection(server.getsockname())
        with one:
            numbers = [one.fileno()]
            for line, count in (
                (b"hello\n", 1),
                (b"spawn alice\n", 1),
                (b"spawn alice\n", 253),
                (b"hel", 2),
                (b"spawn alice\n" * 2, 3),
            ):
                one.setsockopt(*linger, struct.pack("ii", 1, 60))
                client = self.connect()
                client.send(line, *numbers * count)
                client.link.close()
                self.run_until(
                    lambda: one.getsockopt(*linger, 8)[:4] == bytes(4), f"{line!r}"
                )

    def test_no_use(self):
        """An error of the kernel about a descriptor is answered."""

        def fail(descriptors, address):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

        self.overrideAttr(stdio, "stdio_fault", fail)
        self.assertRefused(self.spawn(*self.stdio()), "a descriptor is of no use")

    def test_wrong_number(self):
        one = self.stdio()[0]
        for number in (0, 1, 2, 4, 5, 10, 253):
            client = self.spawn(*[one] * number)
            self.assertRefused(client, str(number) if number < 3 else "not more")
            # The connection is as good as before.
            client.send(b"spawn alice\n", *self.stdio())
            count = len(self.spawned)
            self.run_until(lambda: len(self.spawned) > count, "the next one")  # noqa: B023

    def test_other_verbs(self):
        for line in (b"hello", b"status", b"reload", b"shutdown", b"shutdown now"):
            for number in (1, 3, 5):
                client = self.connect()
                client.send(line + b"\n", *[self.stdio()[0]] * number)
                self.assertRefused(client, "takes no descriptors")
                client.send(line + b"\n")
                self.assertStartsWith(self.wait_answers(client, 2)[1], "ok ")

    def test_apart(self):
        """Descriptors belong to the line with whose bytes they were sent."""
        client = self.connect()
        client.send(b"\n", *self.stdio())
        client.send(b"spawn alice\n")
        self.assertRefused(client, count=2)
        client.send(b"spawn alice\n", *self.stdio()[:2])
        client.send(b" \n", *self.stdio()[:1])
        self.assertRefused(client, count=4)
        self.assertEqual([], self.spawned)
        parts = self.connect()
        for part, descriptor in zip(
            (b"spawn", b" ", b"bob\n"), self.stdio(), strict=True
        ):
            parts.send(part, descriptor)
        self.run_until(lambda: self.spawned, "all of it")
        # The kernel gives them with what was sent before as well, if that waits.
        after = self.connect()
        after.send(b"spawn alice\n")
        after.send(b"hello", *self.stdio())
        after.send(b"\n")
        self.assertRefused(after, "hello takes no descriptors", count=2)
        behind = self.connect()
        behind.send(b"hello\n\nhello\n")
        behind.send(b"spawn alice\n", *self.stdio())
        self.run_until(lambda: len(self.spawned) == 2, "the spawn")
        self.assertEqual(2, len(self.wait_answers(behind, 2)))

    def test_without_a_request(self):
        """They are closed with the connection, and with a line that is too long."""
        for data in (b"spawn alice", b"\n", b"x" * 5000):
            client = self.connect()
            client.send(data, *self.stdio())
            client.link.shutdown(socket.SHUT_WR)
            self.wait_end(client)

    def test_not_open_as_they_should(self):
        path = os.devnull
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_PATH, 3):  # 3: for neither
            for number, name in enumerate(("stdin", "stdout", "stderr")):
                if flags == (os.O_WRONLY if number else os.O_RDONLY):
                    continue
                stdio = list(self.stdio())
                stdio[number] = self.opened(path, flags)
                self.assertRefused(self.spawn(*stdio), f"{name} is not open for")
        self.spawn(*[self.opened(path, os.O_RDWR)] * 3)
        self.run_until(lambda: self.spawned, "one for all three")

    def socket_of(self, family, kind):
        made = socket.socket(family, kind)
        self.mine.append(made.detach())
        return socket.socket(fileno=os.dup(self.mine[-1]))

    def test_sockets(self):
        """Only connected sockets are taken."""
        ours, theirs = socket.socketpair()
        self.mine += [ours.detach(), theirs.detach()]
        self.spawn(self.mine[0], self.mine[0], self.mine[0])
        self.run_until(lambda: self.spawned, "connected ones")
        os.close(self.mine.pop())
        bad = [self.mine[-1]]
        for family in (socket.AF_UNIX, socket.AF_INET):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                with self.socket_of(family, kind) as made:
                    bad.append(self.mine[-1])
                    if kind == socket.SOCK_STREAM and family == socket.AF_INET:
                        made.bind(("127.0.0.1", 0))
        for family, address in (
            (socket.AF_UNIX, "listening"),
            (socket.AF_INET, ("127.0.0.1", 0)),
        ):
            with self.socket_of(family, socket.SOCK_STREAM) as made:
                made.bind(address)
                made.listen()
                bad.append(self.mine[-1])
        for number in bad:
            for where in range(3):
                stdio = list(self.stdio())
                stdio[where] = number
                self.assertRefused(self.spawn(*stdio), "not connected")

    def test_pipe_whose_writer_is_gone(self):
        """A pipe that still holds data is taken, though its writer is gone."""
        reader, writer = os.pipe()
        self.mine.append(reader)
        os.write(writer, b"hello\n")
        os.close(writer)
        _, stdout, stderr = self.stdio()
        self.spawn(reader, stdout, stderr)
        self.run_until(lambda: self.spawned, "the spawn")
        self.assertEqual(b"hello\n", os.read(self.spawned[0].attached[1], 10))

    def test_gone(self):
        """`on_disconnect` is called once; the descriptors are kept."""
        client = self.spawn(*self.stdio())
        self.run_until(lambda: self.spawned, "the spawn")
        gone = []
        self.spawned[0].on_disconnect = lambda: gone.append(True)
        client.link.close()
        self.run_until(lambda: gone, "the news")
        self.assertFalse(self.spawned[0].send(b"ok 1\n"))
        os.fstat(self.spawned[0].attached[1])
        self.spawned[0].close()
        self.assertEqual([True], gone)
