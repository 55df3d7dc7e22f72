# SPDX-License-Identifier: GPL-2.0-or-later

"""The client among signals, killed services and other clients."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time

from breezy.tests.scenarios import load_tests_apply_scenarios

from ....lpserve.client import conversation
from ...client.nativeclient import compiler, native_client, stopping_shutdown
from ...harness import DEADLINE, read_line, wait_until
from ...processes import title_of
from .fake_service import (
    DOORS,
    HELLO,
    PROGRAMS,
    STAND_ALONE,
    ClientTestCase,
    FakeService,
    StandAloneCase,
    read_to_end,
)

load_tests = load_tests_apply_scenarios


class RunningTestCase(ClientTestCase):
    """With a client of a real service that has said hello."""

    scenarios = DOORS

    def setUp(self):
        super().setUp()
        self.workers = []
        self.start_service()
        self.begin()

    def begin(self, *before):
        """Start a client, with the words *before* in front of its own."""
        words = [*before, *self.client_words("alice", "--no-fallback")]
        self.client = self.start_words(words)
        self.say_hello()
        workers = [pid for pid in self.processes() if title_of(pid) == "lp:alice"]
        self.workers.append(next(pid for pid in workers if pid not in self.workers))

    def say_hello(self):
        os.write(self.client.stdin.fileno(), b"hello\n")
        self.assertEqual(HELLO, read_line(self.client.stdout.fileno()))

    def assertEnded(self, status, stderr=b""):
        """The client ends with *status* by itself: its stdin may still be open."""
        self.assertEqual(status, self.client.wait(DEADLINE))
        self.assertEqual(b"", self.client.stdout.read())
        self.assertEqual(stderr, self.client.stderr.read())

    def assertEndedBySignal(self, number):
        line = f"{self.program}: the worker was ended by signal {number:d}\n"
        self.assertEnded(128 + number, line.encode())

    def assertNoReplies(self):
        replies = os.path.join(self.runtime, "replies")
        wait_until(lambda: not os.listdir(replies), "no reply FIFO is left")

    def kill_service(self):
        self.service.kill()
        self.service.wait()
        self.remove_doors()


class TestSignals(RunningTestCase):
    """What the client is sent, the worker gets."""

    def test_passed_on(self):
        self.client.terminate()
        self.assertEndedBySignal(signal.SIGTERM)
        self.begin()
        for _ in range(20):
            self.client.send_signal(signal.SIGTERM)
        self.assertEndedBySignal(signal.SIGTERM)
        # An idle worker ends as if the client had.
        self.begin()
        self.client.send_signal(signal.SIGHUP)
        self.assertEnded(0)
        self.begin()
        self.client.send_signal(signal.SIGINT)
        self.assertEnded(3, b"lp-serve: interrupted\n")
        self.assertNoReplies()
        # One that was ignored when the client was started stays ignored.
        self.begin("sh", "-c", 'trap "" HUP; exec "$@"', "sh")
        self.client.send_signal(signal.SIGHUP)
        self.say_hello()
        self.client.stdin.close()
        self.assertEnded(0)


class TestKilled(RunningTestCase):
    scenarios = DOORS[1:]

    def test_worker(self):
        """The client knows at once, although its own peer says nothing."""
        begun = time.monotonic()
        os.kill(self.workers[-1], signal.SIGKILL)
        self.assertEndedBySignal(signal.SIGKILL)
        # Much longer than it takes, much shorter than any time-out.
        self.assertTrue(time.monotonic() - begun < 15)
        self.assertNoReplies()
        self.check_client()

    def check_client(self):
        """The worker ends, and what the client could not remove is removed."""
        self.begin()
        self.client.kill()
        self.client.wait()
        wait_until(lambda: not title_of(self.workers[-1]), "the worker has ended")
        self.assertNoReplies()
        self.assertEqual(0, self.settled_status()["workers"]["busy"])

    def test_service(self):
        """Connections go on, and their ends are reported by the workers."""
        others = [self.client]
        self.begin()
        others.append(self.client)
        self.begin()
        self.kill_service()
        self.say_hello()
        self.client.stdin.close()
        self.assertEnded(0)
        # It is not needed to pass a signal on.
        self.client = others[0]
        self.say_hello()
        self.client.send_signal(signal.SIGINT)
        self.assertEnded(3, b"lp-serve: interrupted\n")
        # Of this one neither is left to tell how it ended.
        self.client = others[1]
        os.kill(self.workers[1], signal.SIGKILL)
        killed = b"lp-serve-client: the service and the worker were killed\n"
        self.assertEnded(69, killed)
        self.assertNoReplies()


class TestNoAnswer(ClientTestCase):
    """A service that is there, but does not answer."""

    scenarios = [
        (f"{name}, alone the {door}", {**attributes, "at": door})
        for name, attributes in PROGRAMS
        for door in ("fifo", "socket")
        if (name, door) != ("brz", "fifo")
    ]

    def setUp(self):
        super().setUp()
        self.replies = os.path.join(self.runtime, "replies")

    def make_fake(self):
        return FakeService(self, self.at)

    def finish(self, started):
        stdout, stderr = started.communicate(b"hello\n", DEADLINE)
        return subprocess.CompletedProcess([], started.returncode, stdout, stderr)

    def test_killed_before_the_answer(self):
        self.configure(directory=self.root)
        for words, check in (
            (["--no-fallback"], lambda done: self.assertEnds(done, 69, "ended")),
            ([], lambda done: self.assertServed(done, "ended", "without it")),
        ):
            fake = self.make_fake()
            started = self.start_program("alice", *words)
            self.assertEqual(("alice",), fake.request().words)
            fake.kill()
            check(self.finish(started))
            self.assertEqual([], os.listdir(self.replies))
            fake.close()

    def test_stopped(self):
        """It is given up after lpserve.connect_timeout."""
        self.door = self.at
        self.configure(directory=self.root, connect_timeout=0.5)
        service = self.start_service()
        service.send_signal(signal.SIGSTOP)
        started = self.start_program("alice")
        os.write(started.stdin.fileno(), b"hello\n")
        self.assertEqual(HELLO, read_line(started.stdout.fileno()))
        self.check_given_up(started, 0, "does not answer", "without it")
        refused = self.start_program("alice", "--no-fallback")
        self.check_given_up(refused, 69, "does not answer")
        self.assertEqual([], os.listdir(self.replies))
        service.send_signal(signal.SIGCONT)
        # It may have had descriptors of theirs, which were on their way.
        self.assertEqual(b"", read_to_end(started.stdout.fileno()))
        self.assertEqual(b"", read_to_end(refused.stdout.fileno()))
        # What it finds then has nobody who waits for it.
        if self.at == "fifo":
            self.wait_for_log("dropped a request")
        self.assertServed(self.run_client("alice"))
        self.assertEqual(0, self.settled_status()["workers"]["busy"])

    def check_given_up(self, started, status, *texts):
        self.check_stderr(read_line(started.stderr.fileno()), texts)
        started.stdin.close()
        self.assertEqual(status, started.wait(DEADLINE))

    def test_signal(self):
        """Nobody has to wait for the time-out."""
        fake = self.make_fake()
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            started = self.start_program("alice")
            fake.request()
            fake.close_worker()
            started.send_signal(number)
            self.assertEnds(self.finish(started), 128 + number, f"signal {number}")
            fake.hang_up()
            self.assertEqual([], os.listdir(self.replies))

    def test_error(self):
        """Unless this connection is refused, the client serves it itself."""
        self.configure(directory=self.root)
        fake = self.make_fake()
        started = self.start_program("alice")
        fake.refuse(b"error stopping 'so sorry'\n")
        done = self.finish(started)
        self.assertServed(done, "stopping: so sorry", "without it")
        started = self.start_program("alice", "--no-fallback")
        fake.refuse(b"error failed 'so sorry'\n")
        self.assertEnds(self.finish(started), 69, "failed: so sorry")
        self.assertEqual([], os.listdir(self.replies))

    def test_how_it_ended(self):
        """What the last answer means."""
        fake = self.make_fake()
        for words, status, *texts in (
            (("exit", 0), 0),
            (("exit", 70), 70, "the worker ended with status 70; the service's log"),
            (("signal", 9), 137, "the worker was ended by signal 9"),
        ):
            started = self.start_program("alice")
            fake.accept()
            fake.close_worker()
            fake.answer(*words)
            self.assertEnds(self.finish(started), status, *texts)
            fake.hang_up()

    def test_debugger_is_off(self):
        """SIGQUIT ends it; Breezy's own handler would prompt the peer."""
        fake = self.make_fake()
        started = self.start_program("alice")
        self.addCleanup(fake.close)
        fake.accept()
        fake.close_worker()
        started.send_signal(signal.SIGQUIT)
        done = self.finish(started)
        self.assertEqual((-signal.SIGQUIT, b""), (done.returncode, done.stdout))
        for name in os.listdir(self.replies):
            # Nothing can be done about that one; a service clears it.
            os.unlink(os.path.join(self.replies, name))


class TestTooLate(StandAloneCase):
    """An "ok" that comes when the client has just stopped waiting for it."""

    def test_socket(self):
        """The worker may have its stdio already: it does not fall back."""
        self.requireFeature(compiler)
        self.configure(directory=self.root, connect_timeout=0.1)
        fake = FakeService(self, "socket")
        # What is to be looked into has to load libraries.
        program = native_client(static=False) if self.native else self.client_path
        started = self.start_words([program, "alice"], LD_PRELOAD=stopping_shutdown())
        fake.open_reply(fake.request())
        fake.close_worker()
        wait_until(lambda: _is_stopped(started.pid), "it has stopped waiting")
        fake.answer("ok", fake.worker.pid)
        started.send_signal(signal.SIGCONT)
        stdout, stderr = started.communicate(b"hello\n", DEADLINE)
        self.assertEqual((69, b""), (started.returncode, stdout), stderr)
        text = f"the service at {self.runtime} answered too late; try again"
        self.assertEqual(f"lp-serve-client: {text}\n".encode(), stderr)


def _is_stopped(pid):
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] == "T"


class TestOtherUser(StandAloneCase):
    """A client that is let in by the service of another user."""

    # The other may not be able to read where the one in Python is.
    scenarios = STAND_ALONE[1:]

    def test_let_in(self):
        if os.geteuid() != 0:
            return  # nobody else can be asked
        public = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, public)
        os.chmod(public, 0o711)
        program = shutil.copy(self.client_path, public)
        self.runtime = os.path.join(public, "run")
        fake = FakeService(self, "socket")
        os.chmod(self.runtime, 0o711)
        os.chmod(fake.path, 0o666)
        words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        words += [program, "alice", "--no-fallback", "--door", "socket"]
        started = self.start_words(words)
        fake.accept()
        fake.close_worker()
        # It may not pass a signal on: all that it can do is to go.
        started.terminate()
        ended = (b"", b"lp-serve-client: ended by signal 15\n")
        self.assertEqual(ended, started.communicate(b"", DEADLINE))
        self.assertEqual(143, started.returncode)
        self.assertIs(None, fake.worker.poll())
        # Somebody else's directory is nothing that this service vouches for.
        os.chown(self.runtime, 1, 1)
        done = self.run_program(words)
        self.assertEqual((69, b""), (done.returncode, done.stdout))
        text = f"{self.runtime} is owned by uid 1, not by uid 0"
        self.assertEqual(f"lp-serve-client: {text}\n".encode(), done.stderr)


class TestAutostart(StandAloneCase):
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
        programs = [[self.client_path]] * 16 + [self.brz("lp-serve-client")] * 4
        clients = []
        for words in programs:
            clients.append(self.start_words([*words, "alice", "--no-fallback"]))
        for started in clients:
            stdout, stderr = started.communicate(b"hello\n", 2 * DEADLINE)
            self.assertEqual((0, HELLO), (started.returncode, stdout), str(stderr))
            self.assertEqual(b"", stderr)
        self.assertEqual(1, self.log_text().count("Listening on "), self.log_text())
        self.assertEqual(20, self.status()["totals"]["spawned"])

    def test_cannot_start(self):
        """The reason is told, and the connection served without it."""
        os.mkdir(self.runtime)
        os.chmod(self.runtime, 0o777)
        done = self.run_program([self.client_path, "alice"], b"hello\n")
        self.assertEqual((0, HELLO), (done.returncode, done.stdout))
        self.assertContainsString(done.stderr, b"writable by others")
        self.assertEndsWith(done.stderr, b"serving this connection without it\n")
        done = self.run_program([self.client_path, "alice", "--no-fallback"])
        self.assertEqual((69, b""), (done.returncode, done.stdout))
        self.assertContainsString(done.stderr, b"writable by others")
