# SPDX-License-Identifier: GPL-2.0-or-later

"""The one loop: descriptors, timers, signals."""

import os
import signal
import time
import weakref

from breezy.tests import TestCaseInTempDir

from ...lpserve import system
from ...lpserve.service import loop
from ...lpserve.service.loop import Loop
from ..harness import DEADLINE


def run_loop_until(loop, ready, what, deadline=DEADLINE):
    """Run *loop* until something has happened."""
    end = time.monotonic() + deadline
    happened = False

    def look():
        nonlocal happened
        happened = bool(ready())
        if happened or time.monotonic() > end:
            loop.stop()
        else:
            loop.call_later(0.005, look)

    loop.call_later(0, look)
    loop.run()
    if not happened:
        raise AssertionError(f"did not happen within {deadline} s: {what}")


class LoopTestCase(TestCaseInTempDir):
    """A test with a loop of its own in this process.

    :ivar failures: exceptions of callbacks; there may be none at the end.
    """

    def setUp(self):
        super().setUp()
        self.failures = []
        self.loop = Loop(self.failures.append)
        self.addCleanup(self.loop.close)
        self.addCleanup(lambda: self.assertEqual([], self.failures))

    def run_until(self, ready, what):
        """Run the loop until something has happened."""
        run_loop_until(self.loop, ready, what)


class TestDescriptors(LoopTestCase):
    """`Loop.watch`, `Loop.watch_writable` and `Loop.forget`."""

    def pipe(self):
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        self.addCleanup(os.close, writer)
        return reader, writer

    def test_readable(self):
        """Called whenever there is something, until forgotten."""
        reader, writer = self.pipe()
        found = []

        def read():
            found.append(os.read(reader, 1))
            if len(found) == 2:
                self.loop.forget(reader)

        self.loop.watch(reader, read)
        os.write(writer, b"abc")
        self.run_until(lambda: len(found) == 2, "two of three were read")
        self.loop.call_later(0.02, self.loop.stop)
        self.loop.run()
        self.assertEqual([b"a", b"b"], found)

    def test_writable(self):
        reader, writer = self.pipe()
        os.set_blocking(writer, False)
        full = os.write(writer, bytes(1 << 20))
        called = []

        def write():
            called.append(True)
            self.loop.forget(writer)

        self.loop.watch_writable(writer, write)
        self.loop.call_later(0.02, lambda: called.append(False))
        self.run_until(lambda: called, "the timer")
        self.assertEqual([False], called)
        os.read(reader, full)
        self.run_until(lambda: True in called, "there is room")

    def test_forgotten_in_the_same_round(self):
        """Of two that are ready the first forgets the second: it is not called."""
        pipes = [self.pipe(), self.pipe()]
        called = []

        def read(number):
            called.append(number)
            for reader, _ in pipes:
                self.loop.forget(reader)

        for number, (reader, writer) in enumerate(pipes):
            self.loop.watch(reader, lambda number=number: read(number))
            os.write(writer, b"x")
        self.run_until(lambda: called, "one was called")
        self.assertEqual(1, len(called))

    def test_number_used_again_in_the_same_round(self):
        """The callback of a closed descriptor is not that of its successor."""
        pipes = [os.pipe(), os.pipe()]
        called = []

        def read():
            called.append("old")
            for reader, writer in pipes:
                self.loop.forget(reader)
                os.close(reader)
                os.close(writer)
            for _ in range(2):
                reader, _ = self.pipe()
                self.loop.watch(reader, lambda: called.append("new"))

        for reader, writer in pipes:
            self.loop.watch(reader, read)
            os.write(writer, b"x")
        self.loop.call_later(0.02, self.loop.stop)
        self.loop.run()
        self.assertEqual(["old"], called)

    def test_failing_callback(self):
        """The exception is reported, and the loop goes on."""
        reader, writer = self.pipe()
        error = ValueError("on purpose")

        def fail():
            os.read(reader, 1)
            raise error

        self.loop.watch(reader, fail)
        os.write(writer, b"xy")
        self.run_until(lambda: len(self.failures) == 2, "both failures")
        self.assertEqual([error, error], self.failures)
        del self.failures[:]

    def test_close(self):
        """Nothing of a loop is left open."""
        before = system.open_descriptors()
        Loop(self.failures.append).close()
        self.assertEqual(before, system.open_descriptors())


class TestTimers(LoopTestCase):
    """`Loop.call_later`."""

    def test_order(self):
        """By the time when they are due, then as they were asked for."""
        found = []
        for name, seconds in (("c", 0.02), ("a", 0.0), ("d", 0.02), ("b", 0.01)):
            self.loop.call_later(seconds, lambda name=name: found.append(name))
        self.run_until(lambda: len(found) == 4, "all timers")
        self.assertEqual(["a", "b", "c", "d"], found)

    def test_cancelled_ones_are_not_kept(self):
        """A cancelled timer is forgotten at once, and is not called."""
        kept = []
        found = []
        for number in range(1000):
            timer = self.loop.call_later(60, lambda: found.append("cancelled"))
            kept.append(weakref.ref(timer.callback))
            timer.cancel()
            if number % 300 == 0:
                self.loop.call_later(0.001 * number, lambda n=number: found.append(n))
        self.assertEqual([], [each for each in kept if each() is not None])
        self.assertTrue(len(self.loop._timers) <= loop.FEW, self.loop._timers)
        self.run_until(lambda: len(found) == 4, "those that were not cancelled")
        self.assertEqual([0, 300, 600, 900], found)

    def test_cancelled_by_another_of_the_same_round(self):
        found = []
        self.loop.call_later(0.0, lambda: second.cancel())
        second = self.loop.call_later(0.0, lambda: found.append("second"))
        self.loop.call_later(0.01, lambda: found.append("third"))
        self.run_until(lambda: found, "the third")
        self.assertEqual(["third"], found)

    def test_one_that_asks_for_itself(self):
        """Descriptors are looked at although a timer is always due."""
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        self.addCleanup(os.close, writer)
        os.write(writer, b"x")

        def again():
            self.loop.call_later(0, again)

        self.loop.call_later(0, again)
        self.loop.watch(reader, self.loop.stop)
        self.loop.run()


class TestSignals(LoopTestCase):
    """`Loop.on_signal`: the loop calls the callback, not the handler."""

    def setUp(self):
        super().setUp()
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            self.addCleanup(signal.signal, number, signal.getsignal(number))

    def test_called_from_the_loop(self):
        found = []
        self.loop.on_signal(signal.SIGUSR1, lambda: found.append("one"))
        self.loop.on_signal(signal.SIGUSR2, lambda: found.append("two"))
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR2)
        self.assertEqual([], found)
        self.run_until(lambda: len(found) == 2, "both signals")
        self.assertEqual(["one", "two"], sorted(found))

    def test_wakes_a_loop_without_timers(self):
        """FAULT 7: a signal wakes a loop that waits for nothing else."""
        self.loop.on_signal(signal.SIGUSR1, self.loop.stop)
        self.addCleanup(signal.signal, signal.SIGALRM, signal.SIG_DFL)
        self.loop.on_signal(
            signal.SIGALRM, lambda: os.kill(os.getpid(), signal.SIGUSR1)
        )
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        self.loop.run()

    def test_more_than_the_pipe_holds(self):
        """The handler does not block, and the signal is not lost."""
        found = []
        self.loop.on_signal(signal.SIGUSR1, lambda: found.append(1))
        while True:
            try:
                os.write(self.loop._wakeup_writer, bytes([signal.SIGUSR1]) * 4096)
            except BlockingIOError:
                break
        os.kill(os.getpid(), signal.SIGUSR1)
        self.run_until(lambda: found, "the signal")

    def test_failing(self):
        """After a callback that fails the others of the round are called."""
        found = []
        self.loop.on_signal(signal.SIGUSR1, lambda: 1 / 0)
        self.loop.on_signal(signal.SIGUSR2, lambda: found.append("two"))
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR2)
        self.run_until(lambda: found and self.failures, "both")
        self.assertIsInstance(self.failures.pop(), ZeroDivisionError)
