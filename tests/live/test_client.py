# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""The client among signals, killed services and other clients."""

import contextlib
import os
import signal
import subprocess
import time

from breezy.tests.scenarios import load_tests_apply_scenarios

from ...lpserve import conversation
from ..harness import DEADLINE, LiveTestCase, read_line, wait_until
from .fake_service import HELLO, ClientTestCase, FakeService

load_tests = load_tests_apply_scenarios


class RunningTestCase(ClientTestCase):
    """With a client of a real service that has said hello."""

    def setUp(self):
        super().setUp()
        self.start_service()
        self.begin()

    def begin(self, **env):
        self.client = self.start_program("alice", "--no-fallback", **env)
        self.say_hello()
        self.worker = next(pid for pid in self.processes() if _title(pid) == "lp:alice")

    def say_hello(self):
        os.write(self.client.stdin.fileno(), b"hello\n")
        self.assertEqual(HELLO, read_line(self.client.stdout.fileno()))

    def assertEnded(self, status, stderr=b""):
        """The client ends with *status* by itself: its stdin may still be open."""
        self.assertEqual(status, self.client.wait(DEADLINE))
        self.assertEqual(b"", self.client.stdout.read())
        self.assertEqual(stderr, self.client.stderr.read())
        self.assertNoReplies()

    def assertEndedBySignal(self, number):
        line = f"{self.program}: the worker was ended by signal {number:d}\n"
        self.assertEnded(128 + number, line.encode())

    def assertNoReplies(self):
        replies = os.path.join(self.runtime, "replies")
        wait_until(lambda: not os.listdir(replies), "no reply FIFO is left")

    def kill_service(self):
        self.service.kill()
        self.service.wait()
        os.unlink(os.path.join(self.runtime, "control"))


def _title(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/comm") as comm:
        return comm.read().rstrip("\n")
    return ""


class TestSignals(RunningTestCase):
    """What the client is sent, the worker gets."""

    def test_terminate(self):
        self.client.terminate()
        self.assertEndedBySignal(signal.SIGTERM)

    def test_hang_up(self):
        """An idle worker ends as if the client had."""
        self.client.send_signal(signal.SIGHUP)
        self.assertEnded(0)

    def test_interrupt(self):
        self.client.send_signal(signal.SIGINT)
        self.assertEnded(3, b"lp-serve: interrupted\n")

    def test_several(self):
        for _ in range(20):
            self.client.send_signal(signal.SIGTERM)
        self.assertEndedBySignal(signal.SIGTERM)


class TestKilled(RunningTestCase):
    def test_worker(self):
        """The client knows at once, although its own peer says nothing."""
        begun = time.monotonic()
        os.kill(self.worker, signal.SIGKILL)
        self.assertEndedBySignal(signal.SIGKILL)
        # Much longer than it takes, much shorter than any time-out or poll.
        self.assertTrue(time.monotonic() - begun < 3)

    def test_client(self):
        """The worker ends, and what the client could not remove is removed."""
        self.client.kill()
        self.client.wait()
        wait_until(lambda: not _title(self.worker), "the worker has ended")
        self.assertNoReplies()
        self.assertEqual(0, self.status()["workers"]["busy"])

    def test_service(self):
        """The connection goes on, and its end is reported by the worker."""
        self.kill_service()
        self.say_hello()
        self.client.stdin.close()
        self.assertEnded(0)

    def test_service_then_a_signal(self):
        """A service that is gone is not needed to pass one on."""
        self.kill_service()
        self.say_hello()
        self.client.send_signal(signal.SIGINT)
        self.assertEnded(3, b"lp-serve: interrupted\n")

    def test_service_then_worker(self):
        """Nobody can tell how the worker ended; it did not go well."""
        self.kill_service()
        os.kill(self.worker, signal.SIGKILL)
        self.assertEqual(69, self.client.wait(DEADLINE))
        self.assertEqual(1, self.client.stderr.read().count(b"\n"))
        self.assertNoReplies()


class TestIgnored(RunningTestCase):
    """A signal that was ignored when the client was started stays ignored."""

    def client_words(self, *words):
        ignoring = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh"]
        return [*ignoring, *super().client_words(*words)]

    def test_hang_up(self):
        self.client.send_signal(signal.SIGHUP)
        self.say_hello()
        self.client.stdin.close()
        self.assertEnded(0)


class TestNoAnswer(ClientTestCase):
    """A service that is there, but does not answer."""

    def setUp(self):
        super().setUp()
        self.replies = os.path.join(self.runtime, "replies")

    def finish(self, started):
        stdout, stderr = started.communicate(b"hello\n", DEADLINE)
        return subprocess.CompletedProcess([], started.returncode, stdout, stderr)

    def test_killed_before_the_answer(self):
        self.configure(directory=self.root)
        for words, check in (
            (["--no-fallback"], lambda done: self.assertEnds(done, 69, "ended")),
            ([], lambda done: self.assertServed(done, "ended", "without it")),
        ):
            fake = FakeService(self)
            started = self.start_program("alice", *words)
            self.assertEqual(("alice",), fake.request().words)
            fake.kill()
            check(self.finish(started))
            self.assertEqual([], os.listdir(self.replies))
            fake.close()

    def test_stopped(self):
        """It is given up after lpserve.connect_timeout."""
        self.configure(directory=self.root, connect_timeout=0.5)
        service = self.start_service()
        service.send_signal(signal.SIGSTOP)
        try:
            done = self.run_client("alice")
            self.assertServed(done, "does not answer", "without it")
            done = self.run_client("alice", "--no-fallback")
            self.assertEnds(done, 69, "does not answer")
            self.assertEqual([], os.listdir(self.replies))
        finally:
            service.send_signal(signal.SIGCONT)
        # What it finds then has nobody who waits for it.
        self.wait_for_log("dropped a request")
        self.assertServed(self.run_client("alice"))
        self.assertEqual(1, self.status()["totals"]["spawned"])

    def test_signal(self):
        """Nobody has to wait for the time-out."""
        fake = FakeService(self)
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            started = self.start_program("alice")
            fake.request()
            started.send_signal(number)
            self.assertEnds(self.finish(started), 128 + number, f"signal {number}")
            self.assertEqual([], os.listdir(self.replies))

    def test_error(self):
        """What is no refusal of this connection is a reason to serve it here."""
        self.configure(directory=self.root)
        fake = FakeService(self)
        for code in ("stopping", "failed"):
            started = self.start_program("alice")
            request = fake.request()
            reply = os.path.join(self.replies, request.reply)
            with open(reply, "wb", 0) as file:
                file.write(f"error {code} 'so sorry'\n".encode())
            done = self.finish(started)
            self.assertServed(done, f"{code}: so sorry", "without it")
        self.assertEqual([], os.listdir(self.replies))

    def test_debugger_is_off(self):
        """SIGQUIT ends it; Breezy's own handler would prompt the peer."""
        fake = FakeService(self)
        started = self.start_program("alice")
        self.addCleanup(fake.close)
        fake.accept()
        started.send_signal(signal.SIGQUIT)
        done = self.finish(started)
        self.assertEqual((-signal.SIGQUIT, b""), (done.returncode, done.stdout))
        for name in os.listdir(self.replies):
            # Nothing can be done about that one; a service clears it.
            os.unlink(os.path.join(self.replies, name))


class TestAutostart(LiveTestCase):
    def setUp(self):
        super().setUp()
        self.log_path = os.path.join(self.test_dir, "daemon.log")
        self.configure(autostart=True, directory=self.root, log_file=self.log_path)
        self.addCleanup(self.stop)

    def stop(self):
        with contextlib.suppress(conversation.NoService):
            self.ask("shutdown", "now")

    def test_many_at_once(self):
        """Exactly one service is started, and all are served by it."""
        programs = [["lp-serve-client"]] * 16 + [self.brz("lp-serve-client")] * 4
        clients = []
        for words in programs:
            started = subprocess.Popen(
                [*words, "alice", "--no-fallback"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self.env,
            )
            self.addCleanup(self._end, started)
            clients.append(started)
        for started in clients:
            stdout, stderr = started.communicate(b"hello\n", 2 * DEADLINE)
            self.assertEqual((0, HELLO), (started.returncode, stdout), str(stderr))
            self.assertEqual(b"", stderr)
        self.assertEqual(1, self.log_text().count("Listening on "), self.log_text())
        self.assertEqual(20, self.status()["totals"]["spawned"])

    def test_after_a_kill(self):
        """The next client starts it again."""
        words = ["lp-serve-client", "alice", "--no-fallback"]
        pids = set()
        for _ in range(2):
            done = self.run_program(words, b"hello\n")
            self.assertEqual((0, HELLO), (done.returncode, done.stdout))
            pid = self.status()["pid"]
            pids.add(pid)
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not self.processes(), "all of it has ended")
        self.assertEqual(2, len(pids))
        os.unlink(os.path.join(self.runtime, "control"))

    def test_cannot_start(self):
        """The reason is told, and the connection served without it."""
        os.mkdir(self.runtime)
        os.chmod(self.runtime, 0o777)
        done = self.run_program(["lp-serve-client", "alice"], b"hello\n")
        self.assertEqual((0, HELLO), (done.returncode, done.stdout))
        self.assertContainsString(done.stderr, b"writable by others")
        self.assertEndsWith(done.stderr, b"serving this connection without it\n")
        done = self.run_program(["lp-serve-client", "alice", "--no-fallback"])
        self.assertEqual((69, b""), (done.returncode, done.stdout))
        self.assertContainsString(done.stderr, b"writable by others")
