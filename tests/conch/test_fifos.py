# SPDX-License-Identifier: GPL-2.0-or-later

"""Our ends of a worker's standard output and error, on each kind of reactor.

For the other end, `fifos.Writer`, see ``test_pipes.py``.
"""

import contextlib
import os

from breezy.tests.scenarios import load_tests_apply_scenarios
from twisted.internet import main
from twisted.internet.interfaces import IReadDescriptor
from zope.interface.verify import verifyObject

from ...lpserve.conch.fifos import Reader
from .reactorcase import FifoTestCase

load_tests = load_tests_apply_scenarios


class TestReader(FifoTestCase):
    def setUp(self):
        super().setUp()
        self.make()

    def make(self):
        """A reader that has not opened its FIFO yet."""
        self.got = b""
        self.reader = Reader(self.reactor, 1, self.received, self.lost.append)

    def make_again(self):
        """Another one, after the test has closed the last; with a new FIFO."""
        self.close_far()
        self.lost.clear()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        os.mkfifo(self.path)
        self.make()

    def received(self, number, data):
        self.assertEqual(1, number)
        self.got += data

    def open(self, far=True):
        """Open our end, then, if *far*, that of the worker."""
        self.reader.open(self.open_fifo(os.O_RDONLY), self.path)
        if far:
            self.open_far(os.O_WRONLY)

    def write(self, data):
        os.write(self.far, data)

    def fill(self):
        """Fill the FIFO; the count of bytes."""
        written = 0
        while True:
            try:
                written += os.write(self.far, b"x" * 4096)
            except BlockingIOError:
                return written

    def wait_got(self, data):
        self.run_until(lambda: len(self.got) >= len(data), f"{len(data)} bytes came")
        self.assertEqual(data, self.got)

    def test_interface(self):
        verifyObject(IReadDescriptor, self.reader)
        self.reader.drain()
        self.assertEqual([1], self.lost)

    def test_read_to_the_end(self):
        self.open()
        self.write(b"one ")
        self.wait_got(b"one ")
        self.write(b"two")
        self.wait_got(b"one two")
        self.close_far()
        self.wait_lost(1)

    def test_other_end_is_not_open_yet(self):
        """A FIFO that the worker has not opened yet is not at its end."""
        self.reader.stopReading()
        self.reader.startReading()
        self.open(far=False)
        self.turn(10)
        self.assertEqual([], self.lost)
        self.open_far(os.O_WRONLY)
        self.turn()
        self.assertEqual([], self.lost)
        self.write(b"late")
        self.wait_got(b"late")
        self.close_far()
        self.wait_lost(1)

    def test_never_opened(self):
        self.reader.drain()
        self.wait_lost(1)
        self.reader.loseConnection()
        self.reader.drain()
        self.reader.startReading()
        self.turn()
        self.assertEqual([1], self.lost)

    def test_paused_before_open(self):
        self.reader.stopReading()
        self.open()
        self.write(b"patience")
        self.turn()
        self.assertEqual(b"", self.got)
        self.assertTrue(self.reader.paused)
        self.reader.startReading()
        self.assertFalse(self.reader.paused)
        self.wait_got(b"patience")
        self.reader.drain()

    def test_other_end_closed_while_paused(self):
        """After it is resumed, the data and the end of file arrive."""
        self.open()
        self.reader.stopReading()
        self.write(b"kept")
        self.close_far()
        self.turn(10)
        self.assertEqual((b"", []), (self.got, self.lost))
        self.reader.startReading()
        self.wait_lost(1)
        self.assertEqual(b"kept", self.got)

    def test_drained_with_a_writer_left_behind(self):
        """A process that the worker has started keeps the FIFO open."""
        self.open()
        written = self.fill()
        self.reader.drain()
        self.wait_lost(1)
        self.assertEqual(written, len(self.got))
        self.assertRaises(BrokenPipeError, self.write, b"x")

    def test_drained_while_empty(self):
        for far in (True, False):
            self.open(far)
            self.reader.drain()
            self.assertEqual([1], self.lost)
            self.make_again()
        self.reader.drain()

    def test_drained_while_paused(self):
        """It is closed after it was resumed and the rest has been read."""
        self.open()
        self.write(b"rest")
        self.reader.stopReading()
        self.reader.drain()
        self.turn(10)
        self.assertEqual((b"", []), (self.got, self.lost))
        self.reader.startReading()
        self.wait_lost(1)
        self.assertEqual(b"rest", self.got)

    def test_drained_by_the_receiver(self):
        self.open()
        self.write(b"last")
        self.received = self.reader._received = lambda *_: self.reader.drain()
        self.wait_lost(1)

    def test_closed_by_the_receiver(self):
        for drained in (False, True):
            self.open()
            os.unlink(self.path)
            self.write(b"enough")
            got = []

            def received(number, data, got=got):
                got.append(data)
                self.reader.loseConnection()

            self.reader._received = received
            if drained:
                self.reader.drain()
            self.wait_lost(1)
            self.assertEqual([b"enough"], got)
            self.make_again()
        self.reader.drain()

    def test_closed_before_the_worker_opens(self):
        """It stays open until the worker has opened it, which would block or fail."""
        close = "loseConnection"
        for calls in ((close, close), ("stopReading", close), (close, "startReading")):
            self.open(far=False)
            for each in calls:
                getattr(self.reader, each)()
            self.stay_open_for_the_worker()
            self.make_again()
        self.reader.drain()

    def test_closed_before_open(self):
        """The same where the close came before our end was open."""
        self.reader.loseConnection()
        self.turn()
        self.assertEqual([], self.lost)
        self.open(far=False)
        self.stay_open_for_the_worker()
        self.assertRaises(BrokenPipeError, self.write, b"x")

    def stay_open_for_the_worker(self):
        """Our end, which was closed, is there until the worker has opened its own."""
        self.turn(10)
        self.assertEqual([], self.lost)
        self.open_far(os.O_WRONLY)
        self.write(b"unwanted")
        self.wait_lost(1)
        self.assertEqual(b"", self.got)

    def test_closed_and_drained_before_the_other_side_opens(self):
        self.open(far=False)
        self.reader.loseConnection()
        self.turn()
        self.reader.drain()
        self.wait_lost(1)

    def test_cannot_be_read(self):
        self.reader.stopReading()
        self.reader.open(os.open(self.test_dir, os.O_RDONLY), self.path)
        self.assertIs(main.CONNECTION_LOST, self.reader.doRead())
        self.reader.connectionLost(None)
        self.assertEqual([1], self.lost)

    def test_number_of_one_that_was_closed(self):
        """A late event of the reactor for a closed descriptor is not the next one's."""
        lost, readers = [], []

        def make(name):
            path = os.path.join(self.test_dir, name)
            os.mkfifo(path)
            reader = Reader(self.reactor, len(readers), self.received, closed)
            readers.append(reader)
            reader.open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), path)
            return path

        def closed(number):
            lost.append(number)
            if len(lost) == 1:
                readers[1 - number].drain()
                make("successor"), make("and another")

        for path in (make("one"), make("other")):
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        self.run_until(lambda: len(lost) >= 2, "both are closed")
        self.turn(10)
        self.assertEqual([0, 1], sorted(lost))
        readers[2].drain()
        readers[3].drain()

    def test_read_without_need(self):
        """A reactor may call doRead when there is no data."""
        self.open()
        self.assertIs(None, self.reader.doRead())
        self.assertEqual((b"", []), (self.got, self.lost))
        self.reader.drain()
