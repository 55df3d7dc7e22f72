# SPDX-License-Identifier: GPL-2.0-or-later

"""Our end of a worker's standard input, and the three ends together."""

import contextlib
import os

from breezy.tests.scenarios import load_tests_apply_scenarios
from twisted.internet import interfaces
from zope.interface.verify import verifyObject

from ...lpserve.conch.fifos import Reader, Writer
from ...lpserve.conch.pipes import Pipes
from .reactorcase import FifoTestCase, Producer, PullProducer, ReactorTestCase

load_tests = load_tests_apply_scenarios

#: More than a FIFO holds.
MUCH = 200_000


class TestWriter(FifoTestCase):
    def setUp(self):
        super().setUp()
        self.writer = Writer(self.reactor, self.lost.append)

    def open(self):
        """The other side opens it, then we do."""
        if self.far < 0:
            self.open_far(os.O_RDONLY)
        self.writer.open(self.open_fifo(os.O_WRONLY))

    def read(self, count):
        """Exactly *count* bytes at the far end."""
        data = b""

        def enough():
            nonlocal data
            with contextlib.suppress(BlockingIOError):
                data += os.read(self.far, count - len(data))
            return len(data) >= count

        self.run_until(enough, f"{count} bytes are there")
        return data

    def test_interfaces(self):
        verifyObject(interfaces.IWriteDescriptor, self.writer)
        verifyObject(interfaces.IReadDescriptor, self.writer)
        self.writer.drain()

    def test_written_before_and_after_open(self):
        self.writer.write(b"one ")
        self.writer.writeSequence([b"two ", b"three "])
        self.turn()
        self.open()
        self.writer.write(b"four")
        self.assertEqual(b"one two three four", self.read(18))
        self.assertEqual([], self.lost)
        self.writer.loseConnection()
        self.wait_lost(0)
        self.assertEqual(b"", os.read(self.far, 1))

    def test_closed_before_open(self):
        """What was written before that gets there still."""
        data = bytes(range(250)) * (MUCH // 250)
        self.writer.write(data)
        self.writer.loseConnection()
        self.writer.loseConnection()
        self.turn()
        self.assertEqual([], self.lost)
        self.open()
        self.assertEqual(data, self.read(len(data)))
        self.wait_lost(0)
        self.assertEqual(b"", os.read(self.far, 1))

    def test_closed_before_open_and_nothing_written(self):
        self.writer.loseConnection()
        self.open()
        self.wait_lost(0)
        self.assertEqual(b"", os.read(self.far, 1))

    def test_never_opened(self):
        """The worker ended before it was there."""
        self.writer.write(b"lost")
        self.writer.drain()
        self.wait_lost(0)
        self.writer.write(b"nobody")
        self.writer.loseConnection()
        self.turn()
        self.assertEqual([0], self.lost)
        self.assertEqual(-1, self.writer.fileno())

    def test_other_end_closed_while_nothing_is_written(self):
        self.open()
        self.turn()
        self.assertEqual([], self.lost)
        self.close_far()
        self.wait_lost(0)

    def test_other_end_closed_while_it_does_not_read(self):
        self.writer.write(b"x" * MUCH)
        self.open()
        self.turn()
        self.close_far()
        self.wait_lost(0)

    def test_other_end_closed_while_closing(self):
        """There is still something to be passed on, to nobody."""
        self.open()
        self.writer.write(b"x" * MUCH)
        self.writer.loseConnection()
        self.turn()
        self.assertEqual([], self.lost)
        self.close_far()
        self.wait_lost(0)

    def test_drained_while_something_is_to_be_written(self):
        """The worker ended: what it has left behind may have the FIFO open."""
        self.open()
        self.writer.write(b"x" * MUCH)
        self.writer.drain()
        self.wait_lost(0)

    def test_taken_before_open(self):
        self.writer.write(b"one ")
        self.writer.writeSequence([b"two ", b"three"])
        self.assertEqual(b"one two three", self.writer.take())
        self.assertEqual(b"", self.writer.take())
        self.writer.write(b"four")
        self.open()
        self.assertEqual(b"four", self.read(4))
        self.writer.drain()

    def test_taken_after_a_part_was_written(self):
        data = bytes(range(250)) * (MUCH // 250)
        self.open()
        self.writer.write(data)
        self.turn()
        self.writer.write(b"end")
        got = os.read(self.far, MUCH)
        self.assertEqual(data + b"end", got + self.writer.take())
        self.writer.drain()

    def test_producer_is_paused_before_open(self):
        """So that what is kept until then does not become much."""
        producer = Producer()
        self.writer.registerProducer(producer, True)
        self.writer.write(b"x" * self.writer.bufferSize)
        self.assertEqual([], producer.told)
        self.writer.write(b"x")
        self.assertEqual(["pause"], producer.told)
        self.open()
        self.read(self.writer.bufferSize + 1)
        self.run_until(lambda: len(producer.told) > 1, "it may go on")
        self.assertEqual(["pause", "resume"], producer.told)
        self.writer.unregisterProducer()
        self.writer.drain()
        self.assertEqual(["pause", "resume"], producer.told)

    def test_producer_is_paused_while_nobody_reads(self):
        producer = Producer()
        self.open()
        self.writer.registerProducer(producer, True)
        written = 0
        while not producer.told:
            written += 10_000
            self.writer.write(b"x" * 10_000)
            self.turn()
        self.assertEqual(["pause"], producer.told)
        self.assertTrue(written < MUCH * 2)
        self.turn(10)
        self.assertEqual(["pause"], producer.told)
        self.read(written)
        self.run_until(lambda: len(producer.told) > 1, "it may go on")
        self.assertEqual(["pause", "resume"], producer.told)
        self.writer.drain()
        self.assertEqual(["pause", "resume", "stop"], producer.told)

    def test_producer_is_stopped_when_the_other_end_is_closed(self):
        producer = Producer()
        self.open()
        self.writer.registerProducer(producer, True)
        self.close_far()
        self.wait_lost(0)
        self.assertEqual(["stop"], producer.told)

    def test_closed_with_a_paused_producer(self):
        """It is closed only when that has no more to say, as Twisted's are."""
        producer = Producer()
        self.writer.registerProducer(producer, True)
        self.writer.write(b"x" * MUCH)
        self.writer.loseConnection()
        self.open()
        self.read(MUCH)
        self.run_until(lambda: len(producer.told) > 1, "it may go on")
        self.writer.write(b"last")
        self.assertEqual((["pause", "resume"], []), (producer.told, self.lost))
        self.writer.unregisterProducer()
        self.wait_lost(0)
        self.assertEqual(b"last", self.read(4))

    def test_pull_producer(self):
        """It is asked once before, and again for all the rest when it is open."""
        parts = [b"%06d" % n * 1000 for n in range(40)]
        whole = b"".join(parts)
        producer = PullProducer(self.writer, parts)
        self.writer.registerProducer(producer, False)
        self.turn()
        self.assertEqual(["resume"], producer.told)
        self.open()
        self.assertEqual(whole, self.read(len(whole)))
        self.run_until(lambda: self.writer.producer is None, "it is done")
        self.writer.loseConnection()
        self.wait_lost(0)


class TestPipes(ReactorTestCase):
    """Three ends, each with a FIFO of which the test has the other."""

    def setUp(self):
        super().setUp()
        self.far = {}
        self.addCleanup(self.close_far, 0, 1, 2)
        self.make()

    def make(self):
        self.got = []
        self.lost = []
        self.pipes = Pipes()
        self.pipes.pipes = {
            0: Writer(self.reactor, self.closed),
            1: Reader(self.reactor, 1, self.received, self.closed),
            2: Reader(self.reactor, 2, self.received, self.closed),
        }

    def received(self, number, data):
        self.got.append((number, data))

    def closed(self, number):
        self.lost.append(number)
        del self.pipes.pipes[number]

    def open(self):
        """Open all; the FIFOs are gone then, as those of a worker are."""
        for number, pipe in sorted(self.pipes.pipes.items()):
            path = os.path.join(self.test_dir, str(number))
            os.mkfifo(path)
            flags = os.O_RDONLY, os.O_WRONLY
            reader, writer = (os.open(path, each | os.O_NONBLOCK) for each in flags)
            os.unlink(path)
            self.far[number] = writer if number else reader
            if number:
                pipe.open(reader, path)
            else:
                pipe.open(writer)

    def close_far(self, *numbers):
        for number in numbers:
            if number in self.far:
                os.close(self.far.pop(number))

    def wait_lost(self, *numbers):
        """Until these are closed, in this order, and no others."""
        self.run_until(lambda: len(self.lost) >= len(numbers), f"{numbers} are closed")
        self.turn()
        self.assertEqual(list(numbers), self.lost)

    def wait_all_lost(self):
        self.run_until(lambda: len(self.lost) == 3, "all are closed")
        self.turn()
        self.assertEqual({0, 1, 2}, set(self.lost))

    def finish(self):
        self.pipes.loseConnection()
        self.wait_all_lost()

    def test_interfaces(self):
        verifyObject(interfaces.IPushProducer, self.pipes)
        verifyObject(interfaces.IConsumer, self.pipes)
        self.assertRaises(NotImplementedError, self.pipes.getHost)
        self.assertRaises(NotImplementedError, self.pipes.getPeer)
        self.open()
        self.finish()

    def test_written(self):
        self.pipes.write(b"1")
        self.pipes.writeToChild(0, b"2")
        self.open()
        self.pipes.writeSequence([b"3", b"4"])
        self.pipes.writeToChild(0, b"5")
        self.turn()
        self.assertEqual(b"12345", os.read(self.far[0], 10))
        for number in (1, 2, 3, -1):
            self.assertRaises(KeyError, self.pipes.writeToChild, number, b"x")
        self.finish()

    def test_close_each(self):
        self.open()
        self.pipes.closeStderr()
        self.wait_lost(2)
        self.pipes.write(b"1")
        self.pipes.closeStdin()
        self.wait_lost(2, 0)
        self.assertEqual(b"1", os.read(self.far[0], 10))
        self.assertEqual(b"", os.read(self.far[0], 10))
        os.write(self.far[1], b"out")
        self.run_until(lambda: self.got, "output comes still")
        self.assertEqual([(1, b"out")], self.got)
        self.pipes.closeStdout()
        self.wait_lost(2, 0, 1)

    def test_close_in_every_order(self):
        orders = [(a, b, 3 - a - b) for a in range(3) for b in range(3) if a != b]
        self.assertEqual(6, len(orders))
        for order in orders:
            self.make()
            self.open()
            for count, number in enumerate(order, 1):
                self.pipes.closeChildFD(number)
                self.wait_lost(*order[:count])
                self.pipes.closeChildFD(number)
            self.close_far(*order)

    def test_close_all_at_once(self):
        """What was written before gets through; nothing that comes after does."""
        self.open()
        self.pipes.write(b"last")
        os.write(self.far[1], b"unread")
        self.pipes.loseConnection()
        self.pipes.loseConnection()
        self.wait_all_lost()
        self.assertEqual([], self.got)
        self.assertEqual(b"last", os.read(self.far[0], 10))
        self.assertEqual(b"", os.read(self.far[0], 10))

    def test_close_all_before_open(self):
        self.pipes.write(b"last")
        self.pipes.loseConnection()
        self.turn()
        self.assertEqual([], self.lost)
        self.open()
        self.wait_all_lost()
        self.assertEqual(b"last", os.read(self.far[0], 10))
        self.assertEqual(b"", os.read(self.far[0], 10))

    def test_after_stdin_is_closed(self):
        """Writing is no error then but by the call that says where to."""
        self.open()
        self.pipes.closeStdin()
        self.wait_lost(0)
        self.pipes.write(b"nobody")
        self.pipes.writeSequence([b"no", b"body"])
        self.assertRaises(KeyError, self.pipes.writeToChild, 0, b"nobody")
        producer = Producer()
        self.pipes.registerProducer(producer, True)
        self.assertEqual(["stop"], producer.told)
        self.pipes.unregisterProducer()
        self.finish()

    def test_producer(self):
        self.open()
        producer = Producer()
        self.pipes.registerProducer(producer, True)
        self.pipes.write(b"x" * MUCH)
        self.assertEqual(["pause"], producer.told)
        self.assertRaises(RuntimeError, self.pipes.registerProducer, producer, True)
        self.pipes.unregisterProducer()
        self.close_far(0)
        self.wait_lost(0)
        self.assertEqual(["pause"], producer.told)
        self.finish()

    def test_consumer_pauses(self):
        """Both outputs stop, and go on; with one of them closed too."""
        self.open()
        self.pipes.pauseProducing()
        os.write(self.far[1], b"out")
        os.write(self.far[2], b"err")
        self.turn(10)
        self.assertEqual([], self.got)
        self.pipes.resumeProducing()
        self.run_until(lambda: len(self.got) == 2, "both came")
        self.assertEqual([(1, b"out"), (2, b"err")], sorted(self.got))
        self.close_far(1)
        self.wait_lost(1)
        self.pipes.pauseProducing()
        os.write(self.far[2], b"more")
        self.turn(10)
        self.pipes.resumeProducing()
        self.run_until(lambda: len(self.got) == 3, "it came")
        self.pipes.stopProducing()
        self.wait_all_lost()
        self.pipes.pauseProducing()
        self.pipes.resumeProducing()
