# SPDX-License-Identifier: GPL-2.0-or-later

"""A worker behaves as a process of the reactor does.

See ``ProcessTestsBuilder`` in ``twisted.internet.test.test_process``.
"""

import inspect
import itertools
import json
import os
import signal

from breezy.tests.scenarios import load_tests_apply_scenarios
from twisted.internet import interfaces
from twisted.internet.error import ProcessExitedAlready
from zope.interface.verify import verifyObject

from ....lpserve.conch import transport
from ...conch.reactorcase import REACTORS, ReactorTestCase, Recorder
from ...harness import descriptors_of
from .transportcase import HELLO, TransportTestCase

load_tests = load_tests_apply_scenarios

ORDERS = list(itertools.permutations(range(3)))


class TestShape(ReactorTestCase):
    """The parameters; no service runs."""

    def setUp(self):
        super().setUp()
        self.here = transport.ForkService(
            self.reactor, os.path.join(self.test_dir, "run")
        )

    def test_same_shape_as_that_of_the_reactor(self):
        verifyObject(interfaces.IReactorProcess, self.here)
        theirs = inspect.signature(self.reactor.spawnProcess).parameters
        ours = inspect.signature(self.here.spawnProcess).parameters
        self.assertEqual([*theirs, "user"], list(ours))
        for name, each in theirs.items():
            self.assertEqual(each.kind, ours[name].kind)
            if name not in ("processProtocol", "executable"):
                self.assertEqual(each.default, ours[name].default, name)

    def test_what_a_worker_cannot_be(self):
        words = ["brz", "lp-serve", "--inet", "alice"]
        for keywords in (
            {"usePTY": True},
            {"usePTY": (1, 2, 3)},
            {"path": "/"},
            {"uid": 0},
            {"gid": 0},
            {"childFDs": {}},
            {"childFDs": {0: 0, 1: 1, 2: 2}},
            {"childFDs": {0: "w", 1: "r", 2: "r", 3: "r"}},
            {"args": []},
            {"args": ["brz", "serve", "--inet"]},
            {"args": ["brz", "lp-serve", "--inet"]},
            {"args": ["brz", "lp-serve", "--inet", "alice", "bob"]},
        ):
            protocol = Recorder()
            call = {"executable": "brz", "args": words, **keywords}
            self.assertRaises(ValueError, self.here.spawnProcess, protocol, **call)
            self.assertEqual([], protocol.events)
        self.assertRaises(ValueError, self.here.spawnProcess, Recorder())

    def test_what_it_can_be_called_with(self):
        pipes = {0: "w", 1: "r", 2: "r"}
        words = [b"brz", "lp-serve", b"--inet", b"alice"]
        for args, keywords in (
            (("/absent", words, {}, None, None, None, False, pipes), {}),
            ((b"/absent", words, {b"LANG": "C", "TZ": b"UTC"}, None), {}),
            (("/absent", ["absent"], None), {"user": "alice", "usePTY": 0}),
            (("/absent",), {"user": "alice"}),
        ):
            protocol = Recorder()
            transport = self.here.spawnProcess(protocol, *args, **keywords)
            verifyObject(interfaces.IProcessTransport, transport)
            verifyObject(interfaces.IPushProducer, transport)
            verifyObject(interfaces.IConsumer, transport)
            self.assertEqual(["made"], protocol.events)
            self.run_to_end(protocol)

    def test_function(self):
        """With breezy.conf, and the reactor that runs."""
        self.overrideEnv("LPSERVE_RUNTIME_DIR", os.path.join(self.test_dir, "run"))
        words = ["absent", "lp-serve", "--inet", "alice"]
        for keywords in ({}, {"reactor": self.reactor}):
            protocol = Recorder()
            made = transport.spawnProcess(protocol, "/absent", words, {}, **keywords)
            self.assertIsInstance(made, transport.WorkerTransport)
            self.run_to_end(protocol)


class TestWorker(TransportTestCase):
    """The behaviour on each kind of reactor."""

    scenarios = REACTORS

    def test_whole_connections(self):
        self.start_service()
        self.check_connection()
        self.check_writing()
        self.check_statuses()

    def check_connection(self):
        """Many requests in a row; the pid before, during and after the connection."""
        protocol = self.spawn()
        self.assertEqual((["made"], {"made": None}), (protocol.events, protocol.pids))
        self.assertIs(None, protocol.transport.started)
        self.hello(protocol)
        pid = protocol.transport.pid
        self.assertIn(pid, self.processes())
        self.assertTrue(protocol.transport.started <= self.reactor.seconds())
        for _ in range(200):
            self.hello(protocol)
        self.assertEqual(["made", "out"], protocol.events)
        protocol.transport.closeStdin()
        self.assertEnded(protocol)
        self.assertEqual({"made": None, "exited": pid, "ended": None}, protocol.pids)
        self.wait_reaped(pid)
        self.check_after_the_end(protocol.transport)
        self.assertEqual(1, protocol.events.count("ended"))

    def check_after_the_end(self, transport):
        for name in ("TERM", "KILL", "HUP", signal.SIGINT, 9):
            self.assertRaises(ProcessExitedAlready, transport.signalProcess, name)
        transport.write(b"nobody")
        transport.writeSequence([b"nobody"])
        self.assertRaises(KeyError, transport.writeToChild, 0, b"nobody")
        transport.closeStdin()
        transport.closeChildFD(1)
        transport.loseConnection()
        transport.pauseProducing()
        transport.resumeProducing()
        self.turn()

    def check_writing(self):
        one, two, three = (self.spawn("cat") for _ in range(3))
        one.transport.write(b"hello, world")
        two.transport.writeSequence([b"hello", b", ", b"world"])
        three.transport.writeToChild(0, b"hello, world")
        for number in (1, 2, 13):
            self.assertRaises(KeyError, three.transport.writeToChild, number, b"x")
        for each in (one, two, three):
            self.wait_out(each, b"hello, world")
            each.transport.closeStdin()
        for each in (one, two, three):
            self.assertEnded(each)

    def check_statuses(self):
        """All output comes before the end, with the worker's exit status."""
        statuses = (0, 1, 7, 255) * 5
        started = [(status, self.spawn(f"exit-{status}")) for status in statuses]
        for status, each in started:
            self.assertEnded(each, status)
            self.assertEqual((b"output", b"error"), (each.out, each.err))

    def test_signals(self):
        """By name and by number; sent before the worker is there, and after."""
        self.start_service()
        for given in ("TERM", "KILL", "USR2", 15, signal.SIGKILL):
            number = getattr(signal, f"SIG{given}") if isinstance(given, str) else given
            early, late = self.spawn(), self.spawn_hello()
            for bad in ("NONE", "SIGTERM", 1000, -1):
                self.assertRaises(ValueError, late.transport.signalProcess, bad)
            for each in (early, late):
                each.transport.signalProcess(given)
                self.assertEnded(each, number=number)
        # SIGHUP and SIGINT ask a worker to end; the status depends on the moment.
        for name, number, served in (("HUP", 1, (0, b"")), ("INT", 2, (3, b"lp-"))):
            lates = [self.spawn_hello() for _ in range(2)]
            for each, given in zip(lates, (name, number), strict=True):
                each.transport.signalProcess(given)
                self.assertEnded(each, served[0])
            self.assertEqual(served[1], lates[0].err[:3])
            for _ in range(5):
                early = self.spawn()
                early.transport.signalProcess(name)
                self.run_to_end(early)
                self.assertEqual(1 if early.ended.exitCode else 0, len(early.err[:1]))
                self.assertIn(
                    (early.ended.exitCode, early.ended.signal),
                    [(None, number), (served[0], None)],
                )

    def test_closing(self):
        self.start_service()
        self.check_closed_by_us()
        self.check_closed_by_the_worker()
        self.check_connection_lost()

    def check_closed_by_us(self):
        """In every order, before the worker is there and when it is."""
        for order in ORDERS:
            early, late = self.spawn(), self.spawn_hello()
            for number in order:
                early.transport.closeChildFD(number)
            for number in order:
                late.transport.closeChildFD(number)
                self.run_until(lambda: number in late.lost, "closed")  # noqa: B023
            self.assertEnded(early)
            self.assertEnded(late)
            self.assertEqual(HELLO, late.out)

    def check_closed_by_the_worker(self):
        """In every order; the worker still runs then."""
        for order in ORDERS:
            protocol = self.spawn_until(b"here", "close-" + "-".join(map(str, order)))
            for number in order:
                self.turn()
                protocol.transport.signalProcess("USR1")
                self.run_until(lambda: number in protocol.lost, "closed")  # noqa: B023
            self.assertEqual(list(order), protocol.lost)
            self.turn()
            self.assertIs(None, protocol.exited)
            protocol.transport.signalProcess("USR1")
            self.assertEnded(protocol)
            self.assertEqual(["exited", "ended"], protocol.events[-2:])

    def check_connection_lost(self):
        """At each stage of a connection; the worker ends by itself."""

        class Leaver(Recorder):
            def connectionMade(self):
                super().connectionMade()
                self.transport.loseConnection()

        leaver, at_once = self.spawn(protocol=Leaver()), self.spawn()
        at_once.transport.loseConnection()
        answered = self.spawn()
        self.wait_pid(answered)
        answered.transport.loseConnection()
        served, closing = self.spawn_hello(), self.spawn_hello()
        served.transport.loseConnection()
        closing.transport.closeStdin()
        closing.transport.loseConnection()
        closing.transport.loseConnection()
        for each in (leaver, at_once, answered, served, closing):
            self.assertEnded(each)
        self.assertEqual(HELLO, served.out)


class TestLife(TransportTestCase):
    """What a worker gets, and what is left of it."""

    def test_environment(self):
        """A worker gets the variables that a request may set."""
        self.start_service()
        given = {b"LANG": "C", "BRZ_EMAIL": "Zoë <z@x>", "SSH_CLIENT": b"1 2 3"}
        with_env = self.spawn("env", env={**given, "HOME": "/", "PATH": ""})
        self.overrideEnv("BRZ_EMAIL", "Ours <o@x>")
        inherited = self.spawn("env", env=None)
        for each in (with_env, inherited):
            self.assertEnded(each)
        got = json.loads(with_env.out)
        self.assertEqual(
            {"LANG": "C", "BRZ_EMAIL": "Zoë <z@x>", "SSH_CLIENT": "1 2 3"},
            {name: got[name] for name in ("LANG", "BRZ_EMAIL", "SSH_CLIENT")},
        )
        self.assertEqual(self.env["PATH"], got["PATH"])
        self.assertEqual("Ours <o@x>", json.loads(inherited.out)["BRZ_EMAIL"])

    def test_death(self):
        self.start_service()
        self.check_death_that_is_not_known_yet()
        self.check_siblings()
        self.check_what_was_left_behind()

    def check_death_that_is_not_known_yet(self):
        """FAULT 9: no signal goes to a pid that has been reaped."""
        protocol = self.spawn_hello()
        pid = protocol.transport.pid
        self.kill(pid)
        self.assertEqual(pid, protocol.transport.pid)
        for name in ("TERM", signal.SIGKILL):
            self.assertRaises(
                ProcessExitedAlready, protocol.transport.signalProcess, name
            )
        self.assertEqual((None, None), (protocol.exited, protocol.ended))
        self.assertEnded(protocol, number=signal.SIGKILL)

    def check_siblings(self):
        """FAULT 10: no worker holds the descriptors of another's connection."""
        one, *others = (self.spawn_hello(user) for user in ("one", "two", "three"))
        one.transport.signalProcess("KILL")
        self.assertEnded(one, number=signal.SIGKILL)
        for each in others:
            self.hello(each)
            each.transport.closeStdin()
            self.assertEnded(each)

    def check_what_was_left_behind(self):
        """A process that the worker leaves behind does not delay the end."""
        protocol = self.spawn("leave")
        self.run_until(lambda: protocol.out.endswith(b"\n"), "its pid")
        protocol.transport.signalProcess("USR1")
        self.assertEnded(protocol)
        self.kill(int(protocol.out))

    def test_descriptors(self):
        """Fifty connections leave none open, here and in the service."""
        self.start_service()
        theirs = self.rest()
        ours = descriptors_of(os.getpid())
        for _ in range(5):
            started = [self.spawn_hello(f"user{number}") for number in range(10)]
            self.assertEqual(10, len({each.transport.pid for each in started}))
            for number, each in enumerate(started):
                if number % 3:
                    each.transport.loseConnection()
                else:
                    each.transport.signalProcess("KILL")
            for number, each in enumerate(started):
                self.assertEnded(each, number=None if number % 3 else 9)
        self.turn()
        self.assertEqual(ours, descriptors_of(os.getpid()))
        self.assertEqual([], self.reactor.getDelayedCalls())
        self.rest(descriptors=theirs)

    def test_protocol_that_raises(self):
        """The exception is logged, and the connection goes on."""

        class Broken(Recorder):
            def _note(self, event):
                super()._note(event)
                raise RuntimeError(event)

        self.start_service()
        protocol = self.spawn(protocol=Broken())
        protocol.transport.write(b"hello\n")
        protocol.transport.closeStdin()
        self.run_until(lambda: "ended" in protocol.events, "its end")
        told = [str(each.value) for each in self.failures()]
        self.logged.clear()
        self.assertEqual(
            ["ended", "exited", "lost 0", "lost 1", "lost 2", "made", "out"],
            sorted(told),
        )
