# SPDX-License-Identifier: GPL-2.0-or-later

"""Much data to and from a worker, and a worker beside a process that does the same."""

import array
import fcntl
import hashlib
import os
import signal
import subprocess
import termios

from breezy.tests.scenarios import load_tests_apply_scenarios

from ....lpserve.client.client import EX_UNAVAILABLE
from ....lpserve.conch.transport import ForkService
from ...conch.reactorcase import REACTORS, LiveReactorTestCase, Recorder
from ...harness import wait_until
from ..client.fake_service import FakeService
from .transportcase import PullSource, Source, TransportTestCase

load_tests = load_tests_apply_scenarios

MEGABYTE = 1 << 20


def pattern(size):
    """What a worker in the role ``flood`` writes."""
    parts = (hashlib.sha256(b"%d" % number).digest() for number in range(size // 32))
    return b"".join(parts)


class TestFlow(TransportTestCase):
    scenarios = REACTORS

    def test_worker_waits_for_who_reads(self):
        """Data that is not read stays in the FIFO, and not in this process."""
        self.start_service()
        size = 8 * MEGABYTE
        protocol = self.spawn(f"flood-{size}")
        self.run_until(lambda: protocol.out, "something comes")
        for _ in range(3):
            protocol.transport.pauseProducing()
            before = len(protocol.out)
            reader = protocol.transport.pipes[1].fileno()
            room = fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ)
            wait_until(lambda: waiting(reader) == room, "the FIFO is full")  # noqa: B023
            self.turn(50)
            self.assertEqual((before, room), (len(protocol.out), waiting(reader)))
            protocol.transport.resumeProducing()
            self.run_until(lambda: len(protocol.out) > before, "more")  # noqa: B023
        self.assertEnded(protocol)
        self.assertEqual(pattern(size), protocol.out)

        class Slow(Recorder):
            """Pauses for a turn after each piece."""

            def outReceived(self, data):
                super().outReceived(data)
                self.transport.pauseProducing()
                self.transport._reactor.callLater(0, self.transport.resumeProducing)

        slow = self.spawn(f"flood-{MEGABYTE}", Slow())
        self.assertEnded(slow)
        self.assertEqual(pattern(MEGABYTE), slow.out)

    def test_producer_waits_for_the_worker(self):
        """While the worker reads nothing, the producer is paused."""
        self.start_service()
        for kind, streaming in ((Source, True), (PullSource, False)):
            protocol = self.spawn("deaf")
            source = kind(protocol.transport, parts := 200)
            protocol.transport.registerProducer(source, streaming)
            source.resumeProducing()
            early = parts - source.parts
            self.assertTrue(early < 20)
            self.run_until(lambda: protocol.out == b"here", "it is there")  # noqa: B023
            self.turn(50)
            # A FIFO's, and what is kept beside it.
            self.assertTrue(parts - source.parts - early < 40)
            protocol.transport.signalProcess("USR1")
            self.assertEnded(protocol)
            self.assertEqual((0, False), (source.parts, source.stopped))
            seen = hashlib.sha256(source.written).hexdigest().encode()
            self.assertEqual(b"here" + seen, protocol.out)
        self.check_producer_of_a_worker_that_ends()

    def check_producer_of_a_worker_that_ends(self):
        """It is told to stop; so is one that is registered afterwards."""
        protocol = self.spawn_until(b"here", "deaf")
        first, late = (Source(protocol.transport, 200) for _ in range(2))
        protocol.transport.registerProducer(first, True)
        first.resumeProducing()
        protocol.transport.signalProcess("KILL")
        self.assertEnded(protocol, number=signal.SIGKILL)
        protocol.transport.registerProducer(late, True)
        self.assertEqual((True, True), (first.stopped, late.stopped))
        protocol.transport.unregisterProducer()


def waiting(descriptor):
    """How much can be read from it."""
    count = array.array("i", [0])
    fcntl.ioctl(descriptor, termios.FIONREAD, count)
    return count[0]


class TestBesideProcess(TransportTestCase):
    """A protocol gets the same calls as from a process of the reactor."""

    def hang_up(self, transport):
        transport.loseConnection()

    def close_stdin(self, transport):
        transport.closeStdin()

    def close_outputs(self, transport):
        transport.closeStdout()
        transport.closeStderr()
        transport.closeStdin()

    def bad_request(self, transport):
        transport.write(b"nonsense\n")
        transport.closeStdin()

    def terminate(self, transport):
        transport.signalProcess("TERM")

    def interrupt(self, transport):
        transport.signalProcess(signal.SIGINT)

    def test_same_for_each_way_to_end(self):
        self.start_service()
        ways = (
            self.hang_up,
            self.close_stdin,
            self.close_outputs,
            self.bad_request,
            self.terminate,
            self.interrupt,
        )
        words = self.brz("lp-serve", "--directory", self.root, "--allow-writes")
        words += ["--inet", "alice"]
        pairs = []
        for way in ways:
            process = Recorder()
            self.reactor.spawnProcess(process, words[0], words, self.env)
            pairs.append((way, process, self.spawn()))
        for way, *both in pairs:
            for each in both:
                self.hello(each)
                way(each.transport)
            self.run_to_end(*both)
            process, worker = both
            self.assertEqual(self.told(process), self.told(worker), way.__name__)

    def told(self, protocol):
        """What the protocol was told, without the order that may differ."""
        ended = protocol.ended
        events = protocol.events
        return {
            "reason": (type(ended), ended.exitCode, ended.signal, ended.status),
            "output": (protocol.out, protocol.err),
            "events": sorted(events),
            "first and last": (events[0], events[-1]),
            "has pid at the end": protocol.pids["ended"] is not None,
            "pid": protocol.transport.pid,
        }


class TestUntold(LiveReactorTestCase):
    """The test plays the service."""

    def test_worker_and_service_gone_before_anything_was_opened(self):
        """The pid is nobody's, and nobody tells how the worker ended."""
        fake = FakeService(self)
        protocol = Recorder()
        service = ForkService(self.reactor, self.runtime)
        service.spawnProcess(protocol, "/absent", user="alice")
        request = fake.request()
        gone = subprocess.Popen(["true"])
        gone.wait()
        fake.reply = os.open(
            os.path.join(fake.directory.replies, request.reply), os.O_WRONLY
        )
        made = fake.directory.make_connection()
        fake.made = made
        made.close()
        paths = [
            os.path.join(made.path, name) for name in ("stdin", "stdout", "stderr")
        ]
        for path in paths:
            os.unlink(path)
        fake.answer("ok", gone.pid, *paths)
        self.run_until(lambda: protocol.transport.pid, "the answer")
        fake.kill()
        self.run_to_end(protocol)
        self.assertEqual(EX_UNAVAILABLE, protocol.ended.exitCode)
        self.assertContainsString(protocol.err, b"lp-serve: ")
