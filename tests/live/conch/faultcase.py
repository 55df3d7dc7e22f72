# SPDX-License-Identifier: GPL-2.0-or-later


"""What the tests of the process transport among faults share.

A connection that the test is about, and others that go on whatever is done to it.
"""

import contextlib
import os
import signal

from twisted.internet import process
from twisted.internet.error import ProcessDone
from twisted.internet.task import LoopingCall

from ....lpserve.conch.transport import ForkService, WorkerTransport
from ...conch.reactorcase import Recorder
from ...harness import DEADLINE, wait_until
from ..client.fake_service import HELLO
from .transportcase import ConnectionTestCase

#: More than a pipe and the reactor's buffers hold together.
PLENTY = 1 << 20

#: Copies its input, and ends with a status of its own.
COPY = "cat; exit 7"

#: Seconds after which whatever has not returned is taken to be blocked.
PATIENCE = int(DEADLINE) + 60


class Talker(Recorder):
    """A connection that says hello for as long as it is answered."""

    def __init__(self):
        super().__init__()
        self.rounds = 0
        self.talking = True

    def connectionMade(self):
        super().connectionMade()
        self.transport.write(b"hello\n")

    def outReceived(self, data):
        super().outReceived(data)
        if self.out == HELLO:
            self.out = b""
            self.rounds += 1
            if self.talking:
                self.transport.write(b"hello\n")


class TransportTestCase(ConnectionTestCase):
    """With transports that no process takes the place of.

    :ivar talker, ticks: the others; see `start_others`.
    """

    def setUp(self):
        super().setUp()
        self.taken = set()

    @contextlib.contextmanager
    def watched(self):
        """Interrupt what is done meanwhile if it blocks."""

        def blocked(number, frame):
            raise AssertionError("the reactor is blocked")

        previous = signal.signal(signal.SIGALRM, blocked)
        signal.alarm(PATIENCE)
        try:
            yield
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, previous)

    def run_until(self, *args, **keywords):
        with self.watched():
            return super().run_until(*args, **keywords)

    def spawn(self, user="alice", protocol=None, env=None, **options):
        """A connection; what its protocol is told.

        :param options: those of `ForkService`.
        """
        service = ForkService(self.reactor, self.runtime, **options)
        protocol = protocol or Recorder()
        with self.watched():
            WorkerTransport(service, protocol, user, env or {}, None)
        return protocol

    def connected(self, user="alice", **options):
        """A connection that has been answered."""
        protocol = self.spawn(user, **options)
        self.hello(protocol)
        return protocol

    def assertServed(self, *protocols):
        """They are answered, and end well when their input does."""
        for each in protocols:
            self.hello(each)
            each.transport.closeStdin()
        self.assertEndWell(*protocols)

    def assertEndWell(self, *protocols):
        self.run_to_end(*protocols)
        for each in protocols:
            self.assertIsInstance(each.ended, ProcessDone, each.err)
            self.assertEqual(b"", each.err)
            self.assertEqual("ended", each.events[-1])

    def assertFails(self, protocol, status, *texts):
        """It ends with *status* and one line on standard error with all *texts*.

        It has no request that could be answered.
        """
        protocol.transport.closeStdin()
        self.run_to_end(protocol)
        self.assertEqual(
            (status, None), (protocol.ended.exitCode, protocol.ended.signal)
        )
        self.assertEqual((b"", 1), (protocol.out, protocol.err.count(b"\n")))
        self.assertStartsWith(protocol.err, b"lp-serve: ")
        self.assertEndsWith(protocol.err, b"\n")
        # Whoever reads it is a user of ssh.
        self.assertNotIn(self.runtime.encode(), protocol.err)
        for text in texts:
            self.assertContainsString(protocol.err.decode(), text)
        self.check_end(protocol)

    def assertKilled(self, protocol, number=signal.SIGKILL):
        self.run_to_end(protocol)
        ended = protocol.ended
        self.assertEqual(
            (None, number, number), (ended.exitCode, ended.signal, ended.status)
        )
        self.assertEqual(b"", protocol.err)
        self.check_end(protocol)

    # -- the others ------------------------------------------------------------

    def start_others(self):
        """Have another connection go to and fro, and a clock tick."""
        self.talker = self.spawn("other", Talker())
        self.clock = LoopingCall(self._tick)
        self.clock.clock = self.reactor
        self.ticks = 0
        self.clock.start(0.005)
        self.addCleanup(self.end_others)
        self.assertOthersGoOn()

    def _tick(self):
        self.ticks += 1

    def assertOthersGoOn(self):
        goal = self.ticks + 5, self.talker.rounds + 5
        self.run_until(
            lambda: self.ticks >= goal[0] and self.talker.rounds >= goal[1],
            f"others go on: {self.talker.events}",
        )

    def end_others(self):
        if not self.clock.running:
            return
        self.talker.talking = False
        self.talker.transport.closeStdin()
        try:
            self.assertEndWell(self.talker)
        finally:
            self.clock.stop()

    # -- what is done to processes ---------------------------------------------

    def stop(self, pid):
        """Stop a process until `go_on`, or until the test ends."""
        os.kill(pid, signal.SIGSTOP)
        self.addCleanup(self.go_on, pid)
        wait_until(lambda: state_of(pid) == "T", "it has stopped")

    @staticmethod
    def go_on(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def kill_service(self):
        """Have it go as the out-of-memory killer would."""
        self.service.kill()
        self.service.wait()
        self.addCleanup(self.remove_doors)

    def stop_zygote(self):
        """Have requests wait for a worker; the zygote's pid."""
        zygote = self.status()["zygote"]
        self.stop(zygote)
        return zygote

    def spare_worker(self):
        """The pid of the next connection's worker, where one is kept spare."""

        def only_one():
            # There may have been more, which have been let go.
            status = self.status()
            known = {self.service.pid, status["zygote"], self.talker.transport.pid}
            found = set(self.processes()) - known - self.taken
            workers = status["workers"]["spare"], status["workers"]["starting"]
            return found if (workers, len(found)) == ((1, 0), 1) else None

        (spare,) = wait_until(only_one, "one spare worker")
        self.taken.add(spare)
        wait_until(lambda: state_of(spare) == "S", "it waits for its connection")
        return spare

    def wait_for_workers(self, kind, count):
        """Wait until so many are there, with the reactor at a standstill."""
        wait_until(
            lambda: self.status()["workers"][kind] == count, f"{count} {kind} workers"
        )


class FallbackTestCase(TransportTestCase):
    """With transports that a script takes the place of."""

    def begin(self, script=COPY, env=None, **options):
        """A connection that *script* serves if there is no service."""
        service = ForkService(self.reactor, self.runtime, **options)
        protocol = Recorder()
        env = {**self.env, **(env or {})}
        with self.watched():
            service.spawnProcess(
                protocol, "/bin/sh", ["sh", "-c", script], env, user="alice"
            )
        return protocol

    def assertEnds(self, protocol, status=7, out=None):
        """The process ends with *status*, and has said *out* and nothing else."""
        self.run_to_end(protocol)
        self.assertEqual(status, protocol.ended.exitCode, str(protocol.err))
        self.assertEqual(b"", protocol.err)
        self.assertEqual(len(out), len(protocol.out))
        self.assertTrue(out == protocol.out, "it came exactly once and in order")
        self.check_end(protocol)

    def assertLogged(self, *texts, times=1):
        """The log has nothing but a line for each of so many connections."""
        lines = self.log_lines()
        self.assertEqual(times, len(lines), lines)
        for line in lines:
            for text in (*texts, "serving this connection without it"):
                self.assertContainsString(line, text)
        self.logged.clear()

    def assertFallsBack(self, *texts, **options):
        """A new connection is served, and it is said why not by the service."""
        protocol = self.begin(**options)
        protocol.transport.write(b"before ")
        self.run_until(lambda: protocol.out, "an answer")
        self.assertTrue(protocol.transport.fallback)
        self.assertIn(protocol.transport.pid, process.reapProcessHandlers)
        protocol.transport.write(b"after")
        protocol.transport.closeStdin()
        self.assertEnds(protocol, out=b"before after")
        self.assertLogged(*texts)


def state_of(pid):
    """Whether a process runs, sleeps, is stopped...: its letter in proc(5)."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(") ")[2][0]


def has_ended(pid):
    """Whether it has, reaped or not."""
    try:
        return state_of(pid) == "Z"
    except OSError:
        return True
