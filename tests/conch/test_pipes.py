# SPDX-License-Identifier: GPL-2.0-or-later

"""Our end of a worker's standard input, and the three ends together."""

import contextlib
import os

from breezy.tests.scenarios import load_tests_apply_scenarios
from twisted.internet import interfaces
from zope.interface.verify import verifyObject

from ...lpserve.conch.fifos import Reader, Writer
from ...lpserve.conch.pipes import Pipes
from .reactorcase import FifoTestCase, Producer, ReactorTestCase

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
        """Data that was written before the close arrives."""
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

    def test_other_end_closed_while_closing(self):
        """With data that nobody will read."""
        self.open()
        self.writer.write(b"x" * MUCH)
        self.writer.loseConnection()
        self.turn()
        self.assertEqual([], self.lost)
        self.close_far()
        self.wait_lost(0)

    def test_drained_while_something_is_to_be_written(self):
        """A process that the worker has left behind may have the FIFO open."""
        self.open()
        self.writer.write(b"x" * MUCH)
        self.writer.drain()
        self.wait_lost(0)

    def test_taken_after_a_part_was_written(self):
        data = bytes(range(250)) * (MUCH // 250)
        self.open()
        self.writer.write(data)
        self.turn()
        self.writer.write(b"end")
        got = os.read(self.far, MUCH)
        self.assertEqual(data + b"end", got + self.writer.take())
        self.writer.drain()

    def test_producer_is_stopped_when_the_other_end_is_closed(self):
        producer = Producer()
        self.open()
        self.writer.registerProducer(producer, True)
        self.close_far()
        self.wait_lost(0)
        self.assertEqual(["stop"], producer.told)

    def test_closed_with_a_paused_producer(self):
        """It is closed when the producer unregisters, as a transport of Twisted's."""
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


class TestPipes(ReactorTestCase):
    """Our three ends of FIFOs; the test has the others."""

    def setUp(self):
        super().setUp()
        self.far = {}
        self.addCleanup(self.close_far, 0, 1, 2)
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
        """Open all, and remove the FIFOs, as a worker does."""
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

    def test_close_all_at_once(self):
        """Data that was written before arrives; nothing more is read."""
        self.open()
        self.pipes.write(b"last")
        os.write(self.far[1], b"unread")
        self.pipes.loseConnection()
        self.pipes.loseConnection()
        self.wait_all_lost()
        self.assertEqual([], self.got)
        self.assertEqual(b"last", os.read(self.far[0], 10))
        self.assertEqual(b"", os.read(self.far[0], 10))

    def test_after_stdin_is_closed(self):
        """Only writeToChild, which names the descriptor, raises an error."""
        self.open()
        self.pipes.closeStdin()
        self.wait_lost(0)
        self.pipes.write(b"nobody")
        self.pipes.writeSequence([b"no", b"body"])
        for number in (0, 1, 2, 3, -1):
            self.assertRaises(KeyError, self.pipes.writeToChild, number, b"nobody")
        producer = Producer()
        self.pipes.registerProducer(producer, True)
        self.assertEqual(["stop"], producer.told)
        self.pipes.unregisterProducer()
        self.pipes.closeStdout()
        self.pipes.closeStderr()
        self.wait_all_lost()

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
        """Both outputs pause and resume, also when one is closed."""
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
