# SPDX-License-Identifier: GPL-2.0-or-later


"""Nothing that happens to the service or to a worker stops the reactor.

In every test there is another connection that goes to and fro, and a clock that
ticks: they go on, whatever is done to the connection that the test is about.
"""

import contextlib
import os
import resource
import shutil
import signal

from breezy.tests.scenarios import load_tests_apply_scenarios

from ...conch.reactorcase import REACTORS
from ...harness import DOORS, descriptors_of, wait_until
from .faultcase import HELLO, TransportTestCase, has_ended, state_of

load_tests = load_tests_apply_scenarios


class TestStoppedService(TransportTestCase):
    """The service does not run: it is stopped by SIGSTOP."""

    def setUp(self):
        super().setUp()
        self.configure(spare_workers=0)
        self.start_service()
        self.start_others()

    def assertWaits(self, *protocols):
        self.assertOthersGoOn()
        for each in protocols:
            self.assertEqual((["made"], None), (each.events, each.transport.pid))

    def test_between_request_and_answer(self):
        zygote = self.stop_zygote()
        protocol = self.spawn()
        self.wait_for_workers("waiting", 1)
        self.assertWaits(protocol)
        self.stop(self.service.pid)
        self.assertWaits(protocol)
        # A protocol that leaves meanwhile is told of the end later.
        gone = self.spawn()
        gone.transport.write(b"hello\n")
        gone.transport.loseConnection()
        self.go_on(zygote)
        self.assertWaits(protocol)
        self.go_on(self.service.pid)
        self.assertServed(protocol)
        self.run_to_end(gone)
        self.check_end(gone)

    def test_while_a_connection_runs(self):
        """A worker that ends well tells so; the service tells of a killed one."""
        served, killed = self.connected(), self.connected()
        self.stop(self.service.pid)
        self.assertServed(served)
        os.kill(killed.transport.pid, signal.SIGKILL)
        self.run_until(lambda: sorted(killed.lost) == [0, 1, 2], "its pipes are closed")
        self.assertOthersGoOn()
        self.assertIs(None, killed.exited)
        self.go_on(self.service.pid)
        self.assertKilled(killed)

    def test_control_fifo_is_full(self):
        self.stop(self.service.pid)
        self.fill_control()
        protocols = [self.spawn() for _ in range(3)]
        self.assertWaits(*protocols)
        self.go_on(self.service.pid)
        self.assertServed(*protocols)
        # Once more, and the service is killed before it reads.
        self.stop(self.service.pid)
        self.fill_control()
        protocols = [self.spawn() for _ in range(3)]
        self.assertWaits(*protocols)
        self.kill_service()
        for each in protocols:
            self.assertFails(each, 69, "the service ended")
        self.assertOthersGoOn()

    def fill_control(self):
        control = os.path.join(self.runtime, "control")
        descriptor = os.open(control, os.O_WRONLY | os.O_NONBLOCK)
        # Empty lines ask for nothing.
        with contextlib.closing(os.fdopen(descriptor, "wb", 0)) as file:
            while file.write(b"\n" * 4096) is not None:
                pass


class TestKilledWorker(TransportTestCase):
    """FAULT 6 and 7: only its own protocol is told."""

    def setUp(self):
        super().setUp()
        self.configure(spare_workers=1)
        self.start_service()
        self.start_others()

    def test_before_it_opens(self):
        for closing in ("nothing", "closeStdin", "closeStdout", "loseConnection"):
            spare = self.spare_worker()
            self.stop(spare)
            protocol = self.spawn()
            protocol.transport.write(b"hello\n")
            if closing != "nothing":
                getattr(protocol.transport, closing)()
            self.run_until(lambda p=protocol: p.transport.pid, "an answer")
            self.assertEqual(spare, protocol.transport.pid)
            self.assertOthersGoOn()
            os.kill(spare, signal.SIGKILL)
            self.assertKilled(protocol)
            self.assertOthersGoOn()

    def test_at_any_moment(self):
        """From its start until it waits for a request."""
        for number in range(24):
            protocol = self.spawn()
            self.run_until(lambda p=protocol: p.transport.pid, "an answer")
            pid = protocol.transport.pid
            self.reactor.callLater(number / 4000, os.kill, pid, signal.SIGKILL)
            self.assertKilled(protocol)
        self.assertOthersGoOn()
        self.end_others()
        self.rest(1)
        self.assertEqual(DOORS, self.paths_left())

    def test_in_the_middle_and_at_the_end(self):
        middle = self.connected()
        os.kill(middle.transport.pid, signal.SIGKILL)
        self.assertKilled(middle)
        # It cannot notice that its input has ended.
        end = self.connected()
        self.stop(end.transport.pid)
        end.transport.closeStdin()
        self.run_until(lambda: end.lost == [0], "its input is closed")
        self.assertOthersGoOn()
        os.kill(end.transport.pid, signal.SIGKILL)
        self.assertKilled(end)
        self.assertEqual(HELLO, end.out)
        # It has reported its exit status before it is killed.
        late = self.connected()
        pid = late.transport.pid
        self.stop(self.service.pid)
        late.transport.closeStdin()
        self.run_until(lambda: state_of(pid) == "Z", "it has ended")
        os.kill(pid, signal.SIGKILL)
        self.assertEndWell(late)
        self.go_on(self.service.pid)
        self.assertOthersGoOn()


class TestKilledService(TransportTestCase):
    """The service is killed; running connections go on."""

    def test_while_connections_run(self):
        """A worker reports its exit status; that of a killed one is unknown."""
        self.start_service()
        self.start_others()
        served, failed, told, killed = (self.connected() for _ in range(4))
        self.kill_service()
        self.assertFails(self.spawn(), 69, "no service (")
        self.assertServed(served)
        failed.transport.signalProcess("INT")
        self.assertFails_with_output(failed, 3, b"lp-serve: interrupted\n")
        told.transport.signalProcess("TERM")
        killed.transport.signalProcess("KILL")
        for each in (told, killed):
            each.out = b""
            self.assertFails(each, 69, "the service and the worker were killed")
        self.assertOthersGoOn()

    def assertFails_with_output(self, protocol, status, line):
        self.run_to_end(protocol)
        self.assertEqual(
            (status, HELLO, line), (protocol.ended.exitCode, protocol.out, protocol.err)
        )


class TestAnswerNotSeen(TransportTestCase):
    """A kill after the service has answered and before the reactor reads that.

    Each kind of reactor may notice another event first.
    """

    scenarios = REACTORS

    def setUp(self):
        super().setUp()
        self.configure(spare_workers=1)
        self.start_service()
        self.start_others()

    def answered(self):
        """A connection that does not know of its answer yet, and its worker.

        Which is stopped, so that it has not opened its FIFOs.
        """
        worker = self.spare_worker()
        self.stop(worker)
        busy = self.status()["workers"]["busy"]
        protocol = self.spawn()
        protocol.transport.write(b"hello\n")
        self.wait_for_workers("busy", busy + 1)
        return protocol, worker

    def test_killed_worker(self):
        protocol, worker = self.answered()
        self.kill_worker(worker)
        self.assertKilled(protocol)
        # Its FIFOs are still there, and only the service can say how it ended.
        protocol, worker = self.answered()
        self.stop(self.service.pid)
        self.kill_worker(worker)
        self.assertOthersGoOn()
        self.assertEqual(["made"], protocol.events)
        self.go_on(self.service.pid)
        self.assertKilled(protocol)
        self.assertOthersGoOn()

    def test_killed_service(self):
        """The worker serves; where it was killed too, that is noticed."""
        served, worker = self.answered()
        killed, other = self.answered()
        self.kill_service()
        self.go_on(worker)
        self.kill_worker(other)
        self.assertFails(killed, 69, "the service and the worker were killed")
        self.run_until(lambda: served.out == HELLO, "an answer")
        self.assertServed(served)
        self.assertOthersGoOn()
        # The next service would remove them.
        shutil.rmtree(os.path.join(self.runtime, "connections"))

    def kill_worker(self, pid):
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: has_ended(pid), "the worker has ended")


class TestNoDescriptors(TransportTestCase):
    """FAULT 3: this process has no descriptors left for a connection."""

    def test_at_each(self):
        # So long that no worker ends because its FIFOs were not opened in time.
        self.configure(spare_workers=1, connect_timeout=600)
        self.start_service()
        before = self.rest(1)
        ours = descriptors_of(os.getpid())
        protocols = [self.spawn_with_descriptors(count) for count in range(7)]
        # The control FIFO, the reply FIFO; a pidfd and the FIFOs of the worker.
        for each in protocols[:2]:
            self.assertFails(each, 69, "Too many open files")
        for each in protocols[2:6]:
            self.assertFails(each, 75, "Too many open files")
        self.assertServed(protocols[6])
        self.turn()
        self.assertEqual(ours, descriptors_of(os.getpid()))
        self.rest(1, before)
        self.assertEqual(DOORS, self.paths_left())

    def spawn_with_descriptors(self, count):
        """A connection while only *count* descriptors can be opened."""
        self.rest(1)
        self.turn()  # what has been given up is closed
        used = set(map(int, os.listdir("/proc/self/fd")))
        # The one that has just been used to list them is free again.
        used = {number for number in used if _is_open(number)}
        free = [number for number in range(len(used) + count + 1) if number not in used]
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free[count], limits[1]))
        try:
            protocol = self.spawn()
            self.run_until(
                lambda: protocol.ended or protocol.transport.started, "it has begun"
            )
            if count < 6:
                self.run_to_end(protocol)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        return protocol


def _is_open(number):
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
