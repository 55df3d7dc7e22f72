# SPDX-License-Identifier: GPL-2.0-or-later


"""FAULT 14: without a service a connection is served as it was before there was one.

A refusal by the service, or a client that has left, is no reason for that.
"""

import contextlib
import os
import shutil
import signal
import sys

from ....lpserve.client import conversation
from ....lpserve.client.refusal import error_response
from ....lpserve.conch.transport import ForkService
from ....lpserve.drained import write_drained
from ....lpserve.location import ENVIRONMENT
from ...conch.reactorcase import Recorder
from ...harness import wait_until
from ..client.fake_service import REQUEST, FakeService, pattern
from .faultcase import PLENTY, FallbackTestCase, TransportTestCase
from .transportcase import PullSource, Source


class TestReasons(FallbackTestCase):
    def test_none_there(self):
        self.assertFallsBack(self.runtime, "No such file or directory")
        os.mkdir(self.runtime)
        self.assertFallsBack(self.runtime, "No such file or directory")
        control = os.path.join(self.runtime, "control")
        os.mkfifo(control)
        self.assertFallsBack(self.runtime, "No such device or address")
        os.unlink(control)
        os.chmod(self.runtime, 0o777)
        self.assertFallsBack(self.runtime, "writable by others")

    def test_stopped(self):
        """It is given up after connect_timeout, and no worker is forked for it."""
        self.configure(spare_workers=0)
        self.start_service()
        self.start_others()
        self.stop(self.service.pid)
        protocols = [self.begin(connect_timeout=0.2) for _ in range(3)]
        for each in protocols:
            each.transport.write(b"x")
            each.transport.closeStdin()
        self.assertOthersGoOn()
        for each in protocols:
            self.assertEnds(each, out=b"x")
        self.assertLogged(self.runtime, "does not answer", times=3)
        self.assertOthersGoOn()
        self.go_on(self.service.pid)
        self.wait_for_log("dropped a request")
        self.assertOthersGoOn()
        self.assertServed(self.spawn())
        self.assertEqual(2, self.status()["totals"]["spawned"])

    def test_stopping(self):
        """And those who are connected finish."""
        self.start_service()
        self.start_others()
        self.assertEqual(["ok"], self.ask("shutdown"))
        self.assertFallsBack(self.runtime, "stopping")
        self.assertOthersGoOn()

    def test_failed(self):
        """ "failed" and unknown answers, unlike "busy", make the client fall back."""
        fake = FakeService(self)
        for answer in ("error failed 'so sorry'", "error what 'is this'", "yes", "'"):
            protocol = self.begin()
            protocol.transport.closeStdin()
            reply = os.path.join(self.runtime, "replies", fake.request().reply)
            with open(reply, "wb", 0) as file:
                file.write(f"{answer}\n".encode())
            self.assertEnds(protocol, out=b"")
            why = "failed: so sorry" if "failed" in answer else "does not understand"
            self.assertLogged(self.runtime, why)

    def test_words_that_no_request_can_have(self):
        """FAULT 43: nobody has a process in place of a worker because of them."""
        self.start_service()
        for word in ("\n", 'it\'s\n"1"', "\udcff\udcfe", "x" * 4096):
            protocol = self.begin("exit 1", env={"BRZ_EMAIL": word})
            self.assertFails(protocol, 64, "BRZ_EMAIL does not fit into a request")
        self.assertEqual(0, self.status()["totals"]["spawned"])


class TestNoReason(TransportTestCase):
    """Without a process to fall back to: errors for the user of ssh."""

    def test_unfit_directory(self):
        """FAULT 15: one that is insecure is not used."""
        self.assertFails(self.spawn(), 69, "No such file or directory")
        control = os.path.join(self.runtime, "control")
        os.makedirs(os.path.join(self.runtime, "replies"))
        with open(control, "w"):
            self.assertFails(self.spawn(), 69, "is not a FIFO")
        os.unlink(control)
        os.mkfifo(control)
        self.assertFails(self.spawn(), 69, "No such device or address")
        with open(control, "r+b", 0):
            for mode in (0o770, 0o702, 0o777):
                os.chmod(self.runtime, mode)
                self.assertFails(self.spawn(), 69, "writable by others")
            os.chmod(self.runtime, 0o700)
            os.rmdir(os.path.join(self.runtime, "replies"))
            self.assertFails(self.spawn(), 69, "No such file")
        os.unlink(control)
        for line in self.log_lines():
            self.assertContainsString(line, self.runtime)

    def test_refused(self):
        """A refusal by the service is the end of the connection."""
        self.configure(max_workers=2, queue_timeout=0)
        self.start_service()
        self.start_others()
        running = self.connected()
        self.assertFails(self.spawn(), 75, "the server is full")
        self.assertServed(running)
        names = (*ENVIRONMENT, "LD_PRELOAD")
        self.assertFails(
            self.spawn(env={"LD_PRELOAD": "x"}, environment=names),
            77,
            "denied: LD_PRELOAD",
        )
        for user in ("", "-alice", ".alice", "../alice", "al ice", "alice'", "é"):
            self.assertFails(self.spawn(user), 64, "bad-request", "USER must match")
        for user in ("reply=eve", "env.LANG=C", "now=1"):
            self.assertFails(self.spawn(user), 64, "bad-request")
        self.assertOthersGoOn()
        refused = self.status()["refused"]
        self.assertEqual({"busy": 1, "denied": 1, "bad-request": 10}, refused)

    def test_drained(self):
        """Also with no service, and before one is started; a request is answered."""
        nowhere = {"autostart": True, "brz": ["/nonexistent/brz"]}
        os.mkdir(self.runtime, 0o700)
        write_drained(self.runtime, "back at noon")
        self.assertFails(self.spawn(**nowhere), 75, "lp-serve: back at noon\n")
        for size in (len(REQUEST), 30, 1):
            protocol = self.spawn(**nowhere)
            for begin in range(0, len(REQUEST), size):
                protocol.transport.write(REQUEST[begin : begin + size])
                self.turn()
            self.run_to_end(protocol)
            self.assertEqual(75, protocol.ended.exitCode)
            self.assertEqual(
                (error_response("back at noon"), b""), (protocol.out, protocol.err)
            )
            self.check_end(protocol)
        # Nothing is sent: it is not waited for.
        protocol = self.spawn(**nowhere)
        self.run_to_end(protocol)
        self.assertEqual(b"lp-serve: back at noon\n", protocol.err)

    def test_fallback_off(self):
        service = ForkService(self.reactor, self.runtime, fallback=False)
        protocol = Recorder()
        service.spawnProcess(protocol, "/bin/sh", ["sh", "-c", "echo"], user="alice")
        self.assertFails(protocol, 69, "no service")


class TestProcess(FallbackTestCase):
    """The process that serves instead gets all that was written before."""

    def setUp(self):
        super().setUp()
        self.fake = FakeService(self)

    def asking(self, *words, **keywords):
        """A connection whose request has been read and not answered."""
        self.fake.close()
        self.fake = FakeService(self)
        protocol = self.begin(*words, **keywords)
        self.fake.request()
        self.turn()
        self.assertEqual(["made"], protocol.events)
        return protocol

    def end_service(self, protocol):
        """End the service, and wait for the process."""
        self.fake.kill()
        self.run_until(lambda: protocol.transport.fallback, "a process in its place")

    def test_what_was_closed(self):
        """Before the process is started."""
        data = pattern(PLENTY)
        protocol = self.asking()
        protocol.transport.write(data)
        protocol.transport.closeStdin()
        self.end_service(protocol)
        self.assertEnds(protocol, out=data)
        self.assertLogged("ended")
        for number, script, out, err in (
            (1, "echo err >&2; echo out", b"", b"err\n"),
            (2, "echo out; echo err >&2", b"out\n", b""),
        ):
            # It has a line to read before, so that it does not come first.
            protocol = self.asking(f"read line; {script}")
            protocol.transport.closeChildFD(number)
            self.end_service(protocol)
            self.run_until(lambda p=protocol: p.lost, "it is closed")
            self.assertEqual([number], protocol.lost)
            protocol.transport.write(b"go on\n")
            self.run_to_end(protocol)
            self.assertEqual((out, err), (protocol.out, protocol.err))
            self.check_end(protocol)

    def test_producers(self):
        for kind, streaming in ((Source, True), (PullSource, False)):
            protocol = self.asking()
            source = kind(protocol.transport, 100)
            protocol.transport.registerProducer(source, streaming)
            source.resumeProducing()
            self.assertNotEqual(0, source.parts, "it waits")
            self.end_service(protocol)
            self.run_to_end(protocol)
            self.assertEnds(protocol, out=source.written)
            self.assertFalse(source.stopped)

    def test_consumer(self):
        """A paused consumer gets nothing until it resumes."""
        protocol = self.asking("head -c 1000000 /dev/zero; exit 7")
        protocol.transport.pauseProducing()
        self.end_service(protocol)
        self.turn(20)
        self.assertEqual(["made"], protocol.events)
        protocol.transport.resumeProducing()
        self.assertEnds(protocol, out=bytes(1000000))

    def test_signals(self):
        """A running process gets them; before its start, they prevent it."""
        for name in ("TERM", "KILL", signal.SIGINT):
            protocol = self.asking("exec sleep 600")
            self.end_service(protocol)
            self.logged.clear()
            protocol.transport.signalProcess(name)
            number = name if isinstance(name, int) else signal.Signals[f"SIG{name}"]
            self.assertKilled(protocol, number)
            protocol = self.asking("echo started")
            protocol.transport.signalProcess(name)
            self.fake.kill()
            self.assertKilled(protocol, number)
            self.assertEqual((b"", []), (protocol.out, self.log_lines()))

    def test_hung_up(self):
        """No process is started for a client that has left."""
        protocol = self.asking("echo started")
        protocol.transport.write(b"x")
        protocol.transport.loseConnection()
        self.fake.kill()
        self.assertKilled(protocol, signal.SIGHUP)
        self.assertEqual((b"", []), (protocol.out, self.log_lines()))
        self.assertFalse(protocol.transport.fallback)

    def test_command(self):
        """The given command is run; without one, the command of lp-serve-client."""
        self.fake.close()
        self.configure(directory=self.root)
        given = Recorder()
        service = ForkService(self.reactor, self.runtime)
        words = self.brz("lp-serve", "--inet", "alice")
        service.spawnProcess(given, sys.executable, words, self.env)
        default = Recorder()
        service = ForkService(self.reactor, self.runtime, brz=self.brz())
        service.spawnProcess(default, env=self.env, user="~alice")
        for each in (given, default):
            each.transport.write(b"hello\n")
        for each in (given, default):
            self.run_until(lambda each=each: each.out, "an answer")
            with open(f"/proc/{each.transport.pid}/cmdline") as file:
                line = file.read().split("\0")[3:-1]
            user = ["alice"] if each is given else ["--", "~alice"]
            self.assertEqual(["lp-serve", "--inet", *user], line)
            self.assertServed(each)
        self.assertLogged(times=2)

    def test_command_that_is_not_there(self):
        self.fake.close()
        for executable in ("/nonexistent/brz", "no-such-program", self.test_dir):
            protocol = Recorder()
            service = ForkService(self.reactor, self.runtime)
            service.spawnProcess(protocol, executable, ["brz"], user="alice")
            self.assertFails(protocol, 69, "cannot run Breezy")
            for line, text in zip(
                self.log_lines(),
                ("serving this connection without it", f"cannot run {executable}: "),
                strict=True,
            ):
                self.assertContainsString(line, text)
            self.logged.clear()


class TestAutostart(FallbackTestCase):
    """The service is started if there is none, and if it can be."""

    def setUp(self):
        super().setUp()
        self.log_path = os.path.join(self.test_dir, "daemon.log")
        for name, value in self.env.items():
            self.overrideEnv(name, value)
        self.addCleanup(self.end_daemon)

    def end_daemon(self):
        with contextlib.suppress(conversation.NoService):
            self.ask("shutdown", "now")

    def test_many_at_once(self):
        self.configure(autostart=True, directory=self.root, log_file=self.log_path)
        options = {"autostart": True, "brz": self.brz()}
        protocols = [self.spawn(f"user{n}", **options) for n in range(20)]
        self.assertServed(*protocols)
        self.assertEqual(1, self.log_text().count("Listening on "), self.log_text())
        self.assertEqual(20, self.status()["totals"]["spawned"])
        self.assertEqual([], self.log_lines())
        # Killed, it is started again by the next one who asks.
        os.kill(self.status()["pid"], signal.SIGKILL)
        wait_until(lambda: not self.processes(), "all of it has ended")
        self.assertServed(self.spawn(**options))
        self.assertEqual(2, self.log_text().count("Listening on "), self.log_text())

    def test_cannot_be_started(self):
        """The log of each connection has the reason."""
        self.configure(autostart=True)
        protocols = [self.begin(autostart=True, brz=self.brz()) for _ in range(2)]
        for each in protocols:
            each.transport.write(b"x")
            each.transport.closeStdin()
        for each in protocols:
            self.assertEnds(each, out=b"x")
        self.assertLogged("cannot be started", "no directory to serve", times=2)
        nowhere = ["/nonexistent/brz"]
        self.assertFallsBack("cannot run /nonexistent/brz", autostart=True, brz=nowhere)
        failing = ["sh", "-c", "echo one >&2; echo two >&2; exit 1"]
        self.assertFallsBack("cannot be started: two", autostart=True, brz=failing)
        shutil.rmtree(self.runtime)
        with open(self.runtime, "w"):
            self.assertFallsBack("cannot make", autostart=True, brz=nowhere)
        os.unlink(self.runtime)
