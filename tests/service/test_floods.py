# SPDX-License-Identifier: GPL-2.0-or-later

"""Clients that send much that means nothing, or nothing at all; FAULT 52."""

import resource
import signal
import tracemalloc

from ...lpserve import system
from ...lpserve.service import socketdoor
from ...lpserve.service.loop import Loop
from ..test_system import in_child
from .socketdoorcase import SocketDoorTestCase
from .test_doors import DoorTestCase
from .test_loop import run_loop_until

#: Bytes: more than what is read at once takes, and less than an object for each line.
LITTLE = 300_000


class _Peak:
    """`bytes` is the most memory that was allocated meanwhile."""

    def __enter__(self):
        tracemalloc.start()
        self._before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        return self

    def __exit__(self, *exception):
        self.bytes = tracemalloc.get_traced_memory()[1] - self._before
        tracemalloc.stop()


class TestFifo(DoorTestCase):
    def rounds(self, data):
        """Write *data*; how many requests have arrived after each of three rounds."""
        self.write(data)
        found = []

        def look():
            found.append(len(self.arrived))
            if len(found) < 3:
                self.loop.call_later(0, look)
            else:
                self.loop.stop()

        self.loop.call_later(0, look)
        self.loop.run()
        return found

    def test_newlines(self):
        """A pipe full of them takes hardly more memory than its bytes."""
        for blank in (b"\n", b" \n", b"\r\n"):
            self.arrived.clear()
            with _Peak() as peak:
                self.write(blank * (60000 // len(blank)))
                self.write(b"hello\n")
                self.run_until(lambda: self.arrived, "the request")
            self.assertTrue(peak.bytes < LITTLE, peak.bytes)
            self.assertEqual(["hello"], [each.verb for each, _ in self.arrived])

    def test_rubbish(self):
        """A limited number is handled in each round, and none is lost."""
        rounds = self.rounds(b"x\n" * 5000 + b"hello\n")
        self.assertTrue(rounds[0] <= 64 and rounds[-1] <= 3 * 64, rounds)
        self.wait_arrived(5001)
        self.assertEqual("hello", self.arrived[-1][0].verb)

    def test_half_a_line_after_much(self):
        """Half a line expires although nothing is read after it."""
        self.overrideAttr(type(self.door._reader), "HOLD", 0.2)
        self.write(b"hello\n" * 200 + b"hel")
        self.wait_arrived(201)
        self.assertContainsString(self.arrived[-1][0].text, "no newline at its end")

    def test_close(self):
        """FAULT 16: all requests that were written before are handled."""
        self.rounds(b"hello\n" * 1000)
        self.write(b"status\n" * 1000)
        self.door.close()
        verbs = [each.verb for each, _ in self.arrived]
        self.assertEqual(["hello"] * 1000 + ["status"] * 1000, verbs)


class TestSocket(SocketDoorTestCase):
    def test_newlines(self):
        """They take little memory, with descriptors or without."""
        client, stdio = self.connect(), self.stdio()
        self.run_until(lambda: self.door.waiting, "it is accepted")
        for number, descriptors in enumerate(((), stdio), 1):
            with _Peak() as peak:
                client.send(b"\n" * 4000, *descriptors)
                client.send(b"hello\n")
                self.run_until(lambda: len(self.arrived) >= number, "a request")  # noqa: B023
            self.assertTrue(peak.bytes < LITTLE, peak.bytes)
        # The line with which there were descriptors is one.
        self.assertEqual(
            ["ok", "error", "ok"],
            [line.split()[0] for line in self.wait_answers(client, 3)],
        )

    def test_lines_in_parts(self):
        """Descriptors belong to the line with which they come, in parts or not."""
        client = self.connect()
        client.send(b"\n\nspawn al", *self.stdio())
        self.run_until(lambda: self.door.waiting, "it is accepted")
        client.send(b"ice\nhello\n")
        self.run_until(lambda: self.spawned, "the spawn")
        self.assertEqual(4, len(self.spawned[0].attached))

    def test_turns(self):
        """A client with many requests does not delay others; all are answered."""
        asked = []

        def handle(request, reply):
            asked.append(reply)
            self.handle(request, reply)

        self.door.handle = handle
        flood, quick = self.connect(), self.connect()
        flood.send(b"hello\n" * 600)
        quick.send(b"hello\n")
        self.wait_answers(flood, 600)
        [other] = [reply for reply in set(asked) if asked.count(reply) == 1]
        self.assertTrue(asked.index(other) <= 16, asked.index(other))
        self.wait_answers(quick, 1)

    def test_gone_while_others_have_their_turn(self):
        client = self.connect()
        client.send(b"hello\n" * 600)
        self.run_until(lambda: self.arrived, "the first")
        client.link.close()
        self.run_until(lambda: not self.door.waiting, "it is noticed")

    def test_idle(self):
        """When there are too many idle clients the oldest are disconnected."""
        self.overrideAttr(socketdoor, "MOST_WAITING", 5)
        idle = [self.connect() for _ in range(8)]
        self.run_until(lambda: len(self.arrived) == 3, "three are too many")
        for client in idle[:3]:
            [line] = self.wait_end(client)
            self.assertStartsWith(line, "error busy 'too many connections")
        for client in idle[3:]:
            client.send(b"hello\n")
            self.wait_answers(client, 1)

    def test_no_descriptors_left(self):
        """An idle client is disconnected to make room for one that asks."""

        def run():
            signal.set_wakeup_fd(-1)
            failures = []
            loop = Loop(failures.append)
            door = self.make_door(loop)
            idle = [self.connect() for _ in range(4)]
            asks = self.connect()
            opened = system.open_descriptors()
            free = [n for n in range(len(opened) + 9) if n not in opened]
            resource.setrlimit(resource.RLIMIT_NOFILE, (free[4], 256))
            asks.send(b"hello\n")
            run_loop_until(loop, asks.read, "the answer")
            ended = [client.read() for client in idle]
            door.close()
            return [asks.lines, ended, list(map(str, failures))]

        answers, ended, failures = in_child(run)
        self.assertStartsWith(answers[0], "ok hello")
        self.assertStartsWith(ended[0][0], "error busy ")
        self.assertEqual(([], []), (ended[-1], failures))


class TestHiddenHangUp(SocketDoorTestCase):
    """FAULT 53: a client that sends its own end is still seen to go."""

    def spawned_by(self, client, *behind):
        """Spawn, and send the descriptors *behind*; a list, filled when it has gone."""
        client.send(b"spawn alice\n", *self.stdio())
        for each in behind:
            client.send(b"\n", each)
        self.run_until(lambda: self.spawned, "the spawn")
        gone = []
        self.spawned[-1].on_disconnect = lambda: gone.append(True)
        return gone

    def test_in_the_queue(self):
        """The end waits in the queue of the connection."""
        client = self.connect()
        end = client.link.fileno()
        gone = self.spawned_by(client, end, end)
        self.assertRaises(BrokenPipeError, client.send, b"\n", end)
        client.link.close()
        self.run_until(lambda: gone, "the news")

    def test_answers_arrive(self):
        """What was sent behind the spawn is not read; answers still arrive."""
        client = self.connect()
        gone = self.spawned_by(client, client.link.fileno())
        self.assertTrue(self.spawned[0].send(b"ok 1\n"))
        self.assertEqual(["ok 1"], self.wait_answers(client, 1))
        self.spawned[0].close()
        self.assertEqual(["ok 1"], self.wait_end(client))
        self.assertEqual([], gone)

    def test_as_stdio(self):
        """A connection to the service is refused as stdio."""
        other = self.connect()
        for where in range(3):
            client = self.connect()
            for link in (client.link, other.link):
                stdio = list(self.stdio())
                stdio[where] = link.fileno()
                client.send(b"spawn alice\n", *stdio)
            self.assertRefused(client, "a connection to the service", count=2)
        self.assertEqual([], self.spawned)
