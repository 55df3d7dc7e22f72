# SPDX-License-Identifier: GPL-2.0-or-later

"""Asking for a worker, and starting the service, without waiting for either.

The service is the test: it has the control FIFO, and writes the answers.
"""

import contextlib
import fcntl
import os
import subprocess

from breezy.tests.scenarios import load_tests_apply_scenarios
from twisted.internet import process

from ...lpserve import wire
from .askingcase import AskingTestCase, StartingTestCase
from .reactorcase import REACTORS

load_tests = load_tests_apply_scenarios


class TestAnswers(AskingTestCase):
    scenarios = REACTORS

    def setUp(self):
        super().setUp()
        self.start_service()
        self.asking = self.ask("spawn", "alice", "env.LANG=C")

    def stop(self):
        """It leaves nothing, however often it is done."""
        self.asking.stop()
        self.asking.stop()
        self.assertNothingLeft()

    def test_answers(self):
        request = self.request()
        self.assertEqual(["spawn", "alice"], [request.verb, *request.words])
        self.assertEqual({"LANG": "C"}, request.env)
        self.answer("ok", "17", "/a b", "/c", "/d")
        ok = ["ok", "17", "/a b", "/c", "/d"]
        self.wait_answers(ok)
        # connect_timeout is for the answer, not for the life of the worker.
        self.assertEqual([], self.reactor.getDelayedCalls())
        self.answer("exit", "3")
        self.wait_answers(ok, ["exit", "3"])
        self.stop()

    def test_byte_by_byte(self):
        self.request()
        whole = wire.encode_answer("ok", "17", "/it's", "/ö") + b"signal 9\n"
        for count, byte in enumerate(whole, 1):
            os.write(self.reply, bytes([byte]))
            self.turn()
            self.assertEqual(whole[:count].count(b"\n"), len(self.answers))
        self.wait_answers(["ok", "17", "/it's", "/ö"], ["signal", "9"])
        self.stop()

    def test_stopped_by_an_answer(self):
        """An answer that arrives together with the last one is dropped."""
        self.request()
        os.write(self.reply, b"error busy later\nexit 0\n")
        self.wait_fault("later")
        self.assertEqual([], self.answers)
        self.stop()

    def test_faults(self):
        """Answers after which the connection is served without the service."""
        not_understood = "gives an answer that"
        for line, fault in (
            (b"error stopping 'why: not'\n", "says stopping: why: not"),
            (b"error failed 'why: not'\n", "says failed: why: not"),
            *((b"\n", not_understood), (b"  \n", not_understood)),
            *(
                (b"error\n", not_understood),
                (b"error odd x\n", not_understood),
                (b"'half a quote\n", not_understood),
            ),
        ):
            self.request()
            os.write(self.reply, line)
            self.wait_fault(f"the service at {self.runtime.path} {fault}")
            self.assertEqual([], self.answers)
            self.asking = self.ask_again()
        self.stop()

    def test_not_understood_after_the_start(self):
        """The worker runs, but its exit status will not be known."""
        self.request()
        self.answer("ok", "17")
        os.write(self.reply, b"exit 'half a quote\n")
        self.wait_answers(["ok", "17"], ["gone"])
        self.assertNothingLeft()

    def test_service_ends_before_it_answers(self):
        self.request()
        os.write(self.reply, b"ok 17 half an ans")
        self.turn()
        self.end_service()
        self.wait_fault(f"the service at {self.runtime.path} ended")
        self.assertEqual([], self.answers)

    def test_service_ends_before_the_worker_which_tells(self):
        self.request()
        worker = self.start_worker()
        self.asking.watch_worker(self.pidfd(worker))
        self.answer("ok", worker.pid)
        self.wait_answers(["ok", str(worker.pid)])
        reply, self.reply = self.reply, -1
        self.addCleanup(os.close, reply)
        self.end_service()
        self.turn(10)
        os.write(reply, b"exit 4\n")
        worker.kill()
        self.asking._answered = self.stopping
        self.wait_answers(["ok", str(worker.pid)], ["exit", "4"])
        self.stop()

    def stopping(self, words):
        self.answers.append(words)
        self.asking.stop()

    def start_worker(self):
        worker = subprocess.Popen(["sleep", "600"])
        self.addCleanup(worker.wait)
        self.addCleanup(worker.kill)
        return worker

    def pidfd(self, process):
        descriptor = os.pidfd_open(process.pid)
        self.addCleanup(os.close, descriptor)
        return descriptor

    def test_stopped_before_the_answer(self):
        self.request()
        self.stop()
        self.assertRaises(BrokenPipeError, self.answer, "ok")
        self.turn()
        self.assertEqual(([], []), (self.answers, self.faults))


class TestNoAnswer(AskingTestCase):
    """There is no service, or it does not answer."""

    scenarios = REACTORS

    def fill_control(self):
        """Fill the control FIFO; the count of bytes."""
        control = os.open(self.runtime.control, os.O_WRONLY | os.O_NONBLOCK)
        count = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                count += os.write(control, b"x" * 4096)
        os.close(control)
        return count

    def empty_control(self, count):
        while count:
            count -= len(os.read(self.control, count))

    def test_answers_half(self):
        self.start_service()
        self.ask()
        self.request()
        os.write(self.reply, b"ok 17")
        self.turn()
        self.assertEqual(([], []), (self.answers, self.faults))
        self.reactor.getDelayedCalls()[0].reset(0)
        self.wait_fault("does not answer")

    def test_control_is_full(self):
        """The request is written when there is room; the reactor goes on until then."""
        self.start_service()
        filled = self.fill_control()
        asking = self.ask()
        self.turn(10)
        self.assertEqual(([], []), (self.answers, self.faults))
        self.empty_control(filled)
        self.assertEqual("spawn", self.request().verb)
        self.answer("ok", "17")
        self.wait_answers(["ok", "17"])
        self.assertEqual([], self.reactor.getWriters())
        asking.stop()
        self.assertNothingLeft()

    def test_control_remains_full(self):
        self.start_service()
        self.fill_control()
        self.service.connect_timeout = 0.05
        self.ask()
        self.wait_fault("does not answer")

    def test_reactor_is_stopped(self):
        self.start_service()
        self.ask()
        self.reactor.stop()
        self.assertNothingLeft()

    def test_no_service(self):
        """The fault comes later: the caller does not have the WorkerRequest yet."""
        self.ask()
        self.assertEqual([], self.faults)
        self.wait_fault(f"no service at {self.runtime.path}")

    def test_stopped_before_the_fault(self):
        self.ask().stop()
        self.turn()
        self.assertEqual([], self.faults)
        self.assertNothingLeft()


class TestStarting(StartingTestCase):
    """With a command in place of ``brz`` that the test has written."""

    def test_started(self):
        self.command("exec 2>&-")
        os.rmdir(self.runtime.replies)
        os.rmdir(self.runtime.connections)
        os.rmdir(self.runtime.path)
        self.start()
        self.assertEqual(0o700, os.stat(self.runtime.path).st_mode & 0o777)
        os.mkdir(self.runtime.replies)
        self.wait_ready()
        daemon = "-Oa=b lp-serve --fork-server --daemon --runtime-dir"
        self.assertEqual([f"{daemon} {self.runtime.path}"], self.runs())

    def test_it_runs_already(self):
        self.command()
        self.start_service()
        self.start()
        self.wait_ready()
        self.assertEqual([], self.runs())

    def test_cannot_be_started(self):
        """The last line of its standard error is the reason."""
        for command, reason in (
            ("echo one >&2; echo; echo 'no way' >&2; exit 3", "no way"),
            ("kill -9 $$", "no reason given"),
        ):
            self.command(command)
            self.start()
            self.wait_fault(f"the service cannot be started: {reason}")
            self.faults.clear()
        self.service.brz = (os.path.join(self.test_dir, "absent"),)
        self.start()
        # Before Twisted 24, what its child writes.
        self.wait_fault("the service cannot be started: ")
        text = self.faults[0]
        self.assertTrue("cannot run" in text or "FileNotFoundError" in text, text)

    def test_another_client_starts_it(self):
        """Nothing is run here; the service is ready when that client is done."""
        self.command()
        guard = os.open(self.runtime.path, os.O_RDONLY)
        fcntl.flock(guard, fcntl.LOCK_EX)
        self.start()
        self.turn()
        self.start_service()
        self.turn(10)
        self.assertEqual(0, self.readies)
        os.close(guard)
        self.wait_ready()
        self.assertEqual([], self.runs())

    def test_takes_too_long(self):
        """The command goes on, and may yet start the service for the next client."""
        os.mkfifo(self.gate)
        self.command(f"read line < {self.gate}")
        self.start()
        self.run_until(self.runs, "it is run")
        self.reactor.getDelayedCalls()[0].reset(0)
        self.run_until(lambda: self.faults, "a fault")
        self.assertContainsString(self.faults[0], "still being started")
        self.open_gate()
        self.run_until(lambda: not process.reapProcessHandlers, "it has ended")
        self.assertEqual((0, 1), (self.readies, len(self.faults)))
