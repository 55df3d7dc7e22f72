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

    def test_all_at_once(self):
        self.request()
        os.write(self.reply, b"ok 17 a b c\nexit 0\n")
        self.wait_answers(["ok", "17", "a", "b", "c"], ["exit", "0"])
        self.stop()

    def test_stopped_by_an_answer(self):
        """The one behind it is for nobody any more."""
        self.asking._answered = self.stopping
        self.request()
        os.write(self.reply, b"error busy later\nexit 0\n")
        self.wait_answers(["error", "busy", "later"])
        self.stop()

    def test_errors_of_the_requester(self):
        """They are answers; whoever asked makes a status of them."""
        for code in ("busy", "denied", "bad-request"):
            self.request()
            self.answer("error", code, "two words")
            self.wait_answers(["error", code, "two words"])
            self.stop()
            self.asking = self.ask_again()
        self.stop()

    def test_errors_of_the_service(self):
        """As if there were none."""
        for code in ("stopping", "failed"):
            self.request()
            self.answer("error", code, "why: not")
            self.wait_fault(f"at {self.runtime.path} says {code}: why: not")
            self.assertEqual([], self.answers)
            self.asking = self.ask_again()
        self.stop()

    def test_not_understood(self):
        for line in (b"\n", b"error\n", b"'half a quote\n", b"  \n"):
            self.request()
            os.write(self.reply, line)
            self.wait_fault(f"the service at {self.runtime.path} gives an answer that")
            self.assertEqual([], self.answers)
            self.asking = self.ask_again()
        self.stop()

    def test_not_understood_after_the_start(self):
        """There is a worker, but how it ends will not be known."""
        self.request()
        self.answer("ok", "17")
        os.write(self.reply, b"exit 'half a quote\n")
        self.wait_answers(["ok", "17"], ["gone"])
        self.assertNothingLeft()

    def test_service_ends_before_it_reads(self):
        self.end_service()
        self.wait_fault(f"the service at {self.runtime.path} ended")

    def test_service_ends_before_it_answers(self):
        self.request()
        os.write(self.reply, b"ok 17 half an ans")
        self.turn()
        self.end_service()
        self.wait_fault(f"the service at {self.runtime.path} ended")
        self.assertEqual([], self.answers)

    def test_service_answers_and_ends(self):
        """What it has said counts, and it is the worker's end that is waited for."""
        self.request()
        worker = self.start_worker()
        self.asking._answered = self.watching(worker)
        self.answer("ok", worker.pid)
        self.end_service()
        self.wait_answers(["ok", str(worker.pid)])
        self.turn(10)
        self.assertEqual(1, len(self.answers))
        worker.kill()
        self.wait_answers(["ok", str(worker.pid)], ["gone"])
        self.assertNothingLeft()

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

    def watching(self, worker):
        def answered(words):
            self.answers.append(words)
            if words[0] == "ok":
                self.asking.watch_worker(self.pidfd(worker))

        return answered

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
        """Nobody wants it any more."""
        self.request()
        self.stop()
        self.assertRaises(BrokenPipeError, self.answer, "ok")
        self.turn()
        self.assertEqual(([], []), (self.answers, self.faults))


class TestNoAnswer(AskingTestCase):
    """The service is none, or none that answers."""

    scenarios = REACTORS

    def fill_control(self):
        """Until not even a request would fit; how much that was."""
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

    def test_never_answers(self):
        self.start_service()
        self.service.connect_timeout = 0.05
        self.ask()
        self.wait_fault(f"the service at {self.runtime.path} does not answer")

    def test_answers_half(self):
        self.start_service()
        self.ask()
        self.request()
        os.write(self.reply, b"ok 17")
        self.turn()
        self.assertEqual(([], []), (self.answers, self.faults))
        self.reactor.getDelayedCalls()[0].reset(0)
        self.wait_fault("does not answer")

    def test_answered_in_time(self):
        """How long it lives after that is another matter."""
        self.start_service()
        asking = self.ask()
        self.request()
        self.answer("ok", "17")
        self.wait_answers(["ok", "17"])
        self.assertEqual([], self.reactor.getDelayedCalls())
        asking.stop()

    def test_control_is_full(self):
        """The request is written when there is room, and nobody waits meanwhile."""
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

    def test_service_ends_while_control_is_full(self):
        self.start_service()
        self.fill_control()
        self.ask()
        self.end_service()
        self.wait_fault(self.runtime.path)

    def test_reactor_is_stopped(self):
        self.start_service()
        self.ask()
        self.reactor.stop()
        self.assertNothingLeft()

    def test_no_service(self):
        """It is said later: whoever asks does not have what it asks with yet."""
        self.ask()
        self.assertEqual([], self.faults)
        self.wait_fault(f"no service at {self.runtime.path}")
        os.mkfifo(self.runtime.control)
        self.ask_again()
        self.wait_fault(f"no service at {self.runtime.path}")
        os.unlink(self.runtime.control)
        os.mkdir(self.runtime.control)
        self.ask_again()
        self.wait_fault(f"no service at {self.runtime.path}")
        os.rmdir(self.runtime.control)
        with open(self.runtime.control, "w"):
            pass
        self.ask_again()
        self.wait_fault("is not a FIFO")

    def test_not_to_be_trusted(self):
        self.start_service()
        os.chmod(self.runtime.path, 0o777)
        self.ask()
        self.wait_fault(self.runtime.path)
        os.chmod(self.runtime.path, 0o700)

    def test_does_not_fit(self):
        self.start_service()
        for words in (("spawn", "x" * 4096), ("a\nb",), ("\udcff",)):
            self.ask(*words)
            self.wait_fault("does not fit into a request")
            self.faults.clear()

    def test_no_place_for_answers(self):
        self.start_service()
        os.rmdir(self.runtime.replies)
        self.ask()
        self.run_until(lambda: self.faults, "a fault")
        os.mkdir(self.runtime.replies)
        self.wait_fault("No such file")

    def test_stopped_before_it_is_said(self):
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
        self.command("echo one >&2; echo; echo 'no way' >&2; exit 3")
        self.start()
        self.wait_fault("the service cannot be started: no way")

    def test_cannot_be_started_and_says_nothing(self):
        self.command("kill -9 $$")
        self.start()
        self.wait_fault("the service cannot be started: no reason given")

    def test_cannot_be_run(self):
        self.service.brz = (os.path.join(self.test_dir, "absent"),)
        self.start()
        self.wait_fault("the service cannot be started: ")
        self.assertContainsString(self.faults[0], "No such file")

    def test_no_place(self):
        with open(os.path.join(self.test_dir, "file"), "w"):
            pass
        self.service.directory = os.path.join(self.test_dir, "file", "run")
        self.start()
        self.wait_fault("cannot make")

    def test_somebody_else_is_at_it(self):
        """Nothing is run; it is ready when that one's service is."""
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

    def test_once_for_many(self):
        os.mkfifo(self.gate)
        self.command(f"read line < {self.gate}")
        for _ in range(10):
            self.start()
        self.run_until(self.runs, "it is run")
        self.start_service()
        self.turn(10)
        self.assertEqual(0, self.readies)
        self.open_gate()
        self.wait_ready(10)
        self.assertEqual(1, len(self.runs()))

    def test_takes_too_long(self):
        """The command goes on, and may yet start it for the next one."""
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
