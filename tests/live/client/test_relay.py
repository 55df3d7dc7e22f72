# SPDX-License-Identifier: GPL-2.0-or-later

"""The client's relay between all kinds of stdio and a worker."""

import fcntl
import os
import pty
import signal
import socket
import subprocess
import tty

from breezy.tests import TestCase, multiply_scenarios
from breezy.tests.scenarios import load_tests_apply_scenarios

from ....lpserve.client import relay
from ...harness import DEADLINE, read_line, wait_until
from .fake_service import (
    PLENTY,
    STAND_ALONE,
    RelayTestCase,
    fill,
    flood,
    pattern,
    read_exactly,
    read_to_end,
)

load_tests = load_tests_apply_scenarios

DATA = pattern(PLENTY)


class TestStdio(RelayTestCase):
    """What comes out at one end is what went in at the other, for every kind."""

    def check_both_ways(self, stdin, stdout, close_stdin):
        """All of `DATA` goes through in both directions at once, then the ends."""
        self.write_aside(stdin, DATA)
        self.write_aside(self.fake.stdout, DATA)
        # One after the other: each side has more than all buffers hold, so
        # neither direction may wait for the other one.
        self.assertEqual(DATA, read_exactly(self.fake.stdin, len(DATA)))
        self.assertEqual(DATA, read_exactly(stdout, len(DATA)))
        close_stdin()
        self.assertEqual(b"", read_to_end(self.fake.stdin))
        os.write(self.fake.stdout, b"after the end of stdin")
        self.fake.close_worker("stdout")
        self.assertEqual(b"after the end of stdin", read_to_end(stdout))
        self.assertIs(None, self.client.poll())
        self.assertEqual(7, self.finish("exit", 7))

    def test_pipes(self):
        client = self.start()
        os.write(self.fake.stderr, b"to the user\n")
        self.assertEqual(b"to the user\n", read_line(client.stderr.fileno()))
        stdin, stdout = client.stdin, client.stdout
        self.check_both_ways(stdin.fileno(), stdout.fileno(), stdin.close)
        self.assertEqual(b"", read_to_end(client.stderr.fileno()))

    def test_one_socket_for_both(self):
        """As sshd gives it: its end of file is a half-close."""
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        with theirs:
            self.start(theirs, theirs)
        number = ours.fileno()
        self.check_both_ways(number, number, lambda: ours.shutdown(socket.SHUT_WR))

    def test_one_socket_closed_by_the_worker(self):
        """The end of stdout is seen while stdin still flows."""
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        with theirs:
            self.start(theirs, theirs)
        self.fake.close_worker("stdout")
        self.assertEqual(b"", read_to_end(ours.fileno()))
        ours.sendall(b"still here")
        self.assertEqual(b"still here", read_exactly(self.fake.stdin, 10))
        self.assertEqual(0, self.finish())

    def test_files(self):
        """From and to where the files stand; appending is kept."""
        with open("in", "wb") as file:
            file.write(b"skipped" + DATA)
        for mode, before in (("r+b", b"12345"), ("ab", b"1234567")):
            with open("out", "wb") as file:
                file.write(b"1234567")
            with open("in", "rb") as stdin, open("out", mode) as stdout:
                stdin.seek(7)
                stdout.seek(5)
                self.start(stdin, stdout)
            self.assertEqual(DATA, read_to_end(self.fake.stdin))
            os.write(self.fake.stdout, b"answer")
            self.assertEqual(0, self.finish())
            with open("out", "rb") as file:
                expected = before + b"answer"
                self.assertEqual(expected, file.read()[: len(expected)])
            self.fake.close()
            self.fake.__init__(self)

    def test_terminal(self):
        ours, theirs = pty.openpty()
        try:
            tty.setraw(theirs)
            self.start(theirs, theirs, theirs)
        finally:
            os.close(theirs)
        self.write_aside(ours, DATA[:50000])
        self.write_aside(self.fake.stdout, DATA[:50000])
        self.assertEqual(DATA[:50000], read_exactly(self.fake.stdin, 50000))
        self.assertEqual(DATA[:50000], read_exactly(ours, 50000))
        os.close(ours)
        self.assertEqual(b"", read_to_end(self.fake.stdin))
        self.assertEqual(0, self.finish())

    def test_closed(self):
        """Descriptors that are not open are as good as /dev/null."""
        client = ["sh", "-c", 'exec "$@" <&- >&-', "sh", self.client_path, "alice"]
        self.client = subprocess.Popen(client, stderr=subprocess.PIPE, env=self.env)
        self.addCleanup(self._end, self.client)
        self.addCleanup(self.fake.close)
        self.fake.accept()
        self.assertEqual(b"", read_to_end(self.fake.stdin))
        self.assertEqual(0, self.finish())
        self.assertEqual(b"", self.client.stderr.read())


class TestDescriptors(RelayTestCase):
    """O_NONBLOCK belongs to whoever gave us the descriptor."""

    scenarios = multiply_scenarios(
        STAND_ALONE, [("blocking", {"blocking": True}), ("not", {"blocking": False})]
    )

    def check(self, ours, theirs):
        """Relay with *theirs* as stdio; their flags stay what they are.

        :param ours: the other ends of stdin and stdout.
        """
        before = []
        for each in theirs:
            os.set_blocking(each, self.blocking)
            before.append(fcntl.fcntl(each, fcntl.F_GETFL))
        self.start(*theirs)
        os.write(ours[0], b"to the worker")
        self.assertEqual(b"to the worker", read_exactly(self.fake.stdin, 13))
        os.write(self.fake.stdout, b"from the worker")
        self.assertEqual(b"from the worker", read_exactly(ours[1], 15))
        flags = [fcntl.fcntl(each, fcntl.F_GETFL) for each in theirs]
        self.assertEqual(before, flags)
        self.assertEqual(0, self.finish())
        flags = [fcntl.fcntl(each, fcntl.F_GETFL) for each in theirs]
        self.assertEqual(before, flags)

    def test_pipes(self):
        stdin, our_stdin = self.pipe()
        our_stdout, stdout = self.pipe()
        _, stderr = self.pipe()
        theirs = (stdin.fileno(), stdout.fileno(), stderr.fileno())
        self.check((our_stdin.fileno(), our_stdout.fileno()), theirs)

    def test_terminal(self):
        ours, theirs = pty.openpty()
        try:
            tty.setraw(theirs)
            self.check((ours, ours), (theirs,) * 3)
        finally:
            os.close(ours)
            os.close(theirs)


class TestBackpressure(RelayTestCase):
    """Whoever does not read stops the writer, and nobody else."""

    scenarios = multiply_scenarios(
        STAND_ALONE, [("pipes", {"sockets": False}), ("socket", {"sockets": True})]
    )

    def setUp(self):
        super().setUp()
        if not self.sockets:
            client = self.start()
            self.stdin, self.stdout = client.stdin.fileno(), client.stdout.fileno()
            return
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        with theirs:
            self.start(theirs, theirs)
        self.stdin = self.stdout = ours.fileno()

    def test_stalled_stdout(self):
        held = fill(self.fake.stdout)
        self.assertTrue(held < PLENTY, held)
        self.write_aside(self.stdin, DATA)
        self.assertEqual(DATA, read_exactly(self.fake.stdin, len(DATA)))
        os.write(self.fake.stderr, b"stderr\n")
        self.assertEqual(b"stderr\n", read_line(self.client.stderr.fileno()))
        self.assertEqual(b"x" * held, read_exactly(self.stdout, held))
        self.assertEqual(0, self.finish())

    def test_stalled_worker(self):
        held = fill(self.stdin)
        self.assertTrue(held < PLENTY, held)
        self.write_aside(self.fake.stdout, DATA)
        self.assertEqual(DATA, read_exactly(self.stdout, len(DATA)))
        self.assertEqual(b"x" * held, read_exactly(self.fake.stdin, held))
        self.assertEqual(0, self.finish())

    def test_stalled_at_the_end(self):
        """What the worker wrote is delivered although it has ended."""
        held = fill(self.fake.stdout)
        self.fake.close_worker()
        self.fake.answer("exit", 9)
        self.assertEqual(b"x" * held, read_to_end(self.stdout))
        self.assertEqual(9, self.client.wait(DEADLINE))

    def test_stalled_both_ways(self):
        """A signal still gets through to the worker."""
        fill(self.fake.stdout)
        fill(self.stdin)
        self.client.terminate()
        self.assertEqual(-signal.SIGTERM, self.fake.worker.wait(DEADLINE))
        # It also ends the wait for somebody to read what is left.
        self.fake.close_worker()
        self.fake.answer("signal", 15)
        wait_until(self.drains, "the client waits for its reader")
        self.client.terminate()
        self.assertEqual(143, self.client.wait(DEADLINE))

    def drains(self):
        """Whether the client has read the last answer."""
        return not _unread(self.fake.reply)


def _unread(descriptor):
    """How many bytes of a FIFO nobody has read."""
    import struct
    import termios

    number = fcntl.ioctl(descriptor, termios.FIONREAD, struct.pack("i", 0))
    return struct.unpack("i", number)[0]


class TestEnds(RelayTestCase):
    def test_reader_gone(self):
        """The worker sees a broken pipe; the client waits for how it ends."""
        client = self.start()
        client.stdout.close()
        self.assertRaises(BrokenPipeError, flood, self.fake.stdout)
        self.assertEqual(5, self.finish("exit", 5))

    def test_worker_closes_stdin(self):
        """The writer sees a broken pipe while stdout still flows."""
        client = self.start()
        self.fake.close_worker("stdin")
        self.assertRaises(BrokenPipeError, flood, client.stdin.fileno())
        os.write(self.fake.stdout, b"still here")
        self.assertEqual(b"still here", read_exactly(client.stdout.fileno(), 10))
        self.assertEqual(0, self.finish())

    def test_fifos_kept_open(self):
        """What a worker left running does not keep its client."""
        client = self.start()
        os.write(self.fake.stdout, b"last words")
        os.write(self.fake.stderr, b"and to the user")
        self.fake.answer("exit", 0)
        self.assertEqual(b"last words", read_to_end(client.stdout.fileno()))
        self.assertEqual(b"and to the user", read_to_end(client.stderr.fileno()))
        self.assertEqual(0, client.wait(DEADLINE))

    def test_worker_gone_before_the_fifos_are_opened(self):
        self.client = self.start_client("alice")
        self.fake.open_reply(self.fake.request())
        missing = [os.path.join(self.runtime, "connections", n) for n in "abc"]
        self.fake.answer("ok", self.fake.worker.pid, *missing)
        self.assertEqual(75, self.finish("exit", 75))
        self.assertEqual(1, self.client.stderr.read().count(b"\n"))


class TestFlow(TestCase):
    def test_refused_splice(self):
        """splice(2) says EINVAL for some kinds of files: then bytes are copied."""

        def splice(*args, **kwargs):
            raise OSError(22, "Invalid argument")

        self.overrideAttr(relay.os, "splice", splice)
        source, into = os.pipe()
        outof, sink = os.pipe()
        self.addCleanup(os.close, outof)
        flow = relay.Pump(source, sink)
        os.write(into, DATA[:5000])
        os.close(into)
        while not flow.done:
            flow.step(relay.wait(flow.events(), DEADLINE))
        self.assertEqual(DATA[:5000], read_to_end(outof))
