# SPDX-License-Identifier: GPL-2.0-or-later

"""A user whose connection is refused reads one line that says why."""

import os

from breezy.tests.scenarios import load_tests_apply_scenarios

from ....lpserve.client.refusal import error_response
from ....lpserve.drained import write_drained
from ...client.nativeclient import compiler, native_client
from ...harness import DEADLINE
from ..client.fake_service import PROGRAMS, REQUEST, ClientTestCase, FakeService
from ..ssh.conchcase import ConchTestCase
from ..ssh.sshcase import SERVE, SshTestCase

load_tests = load_tests_apply_scenarios


class TestAnswer(ClientTestCase):
    scenarios = PROGRAMS

    def setUp(self):
        super().setUp()
        os.mkdir(self.runtime, 0o700)
        write_drained(self.runtime, "back at noon")

    def test_request(self):
        """It is answered, and nothing is written to standard error."""
        done = self.run_client("alice", stdin=REQUEST)
        self.assertEqual(
            (75, error_response("back at noon"), b""),
            (done.returncode, done.stdout, done.stderr),
        )

    def test_other_input(self):
        """One line on standard error."""
        line = f"{self.program}: back at noon\n".encode()
        for data in (b"", b"hello\n", REQUEST[:-1], b"bzr request 2\nhello\n"):
            done = self.run_client("alice", stdin=data)
            self.assertEqual(
                (75, b"", line), (done.returncode, done.stdout, done.stderr), data
            )

    def test_slow(self):
        """A request may come in pieces; one that does not come is not waited for."""
        client = self.start_program("alice")
        os.write(client.stdin.fileno(), REQUEST[:30])
        os.write(client.stdin.fileno(), REQUEST[30:])
        answer = error_response("back at noon")
        self.assertEqual(answer, client.stdout.read())
        self.assertEqual((75, b""), (client.wait(DEADLINE), client.stderr.read()))
        client = self.start_program("alice")
        os.write(client.stdin.fileno(), REQUEST[:30])
        self.assertEqual(75, client.wait(DEADLINE))
        self.assertEqual(b"", client.stdout.read())
        self.assertEqual(1, client.stderr.read().count(b"\n"))

    def test_no_reader(self):
        """Who does not get the answer gets the line."""
        client = self.start_program("alice")
        client.stdout.close()
        os.write(client.stdin.fileno(), REQUEST)
        self.assertEqual(75, client.wait(DEADLINE))
        self.assertContainsString(client.stderr.read(), b"back at noon\n")

    def test_no_service(self):
        """The same where there is no fallback; not where a worker may have begun."""
        os.unlink(os.path.join(self.runtime, "drained"))
        done = self.run_client("alice", "--no-fallback", stdin=REQUEST)
        self.assertEqual((69, b""), (done.returncode, done.stderr))
        self.assertContainsString(done.stdout, b"LockFailed")
        fake = FakeService(self)
        client = self.start_program("alice")
        fake.accept()
        fake.close_worker()
        fake.answer("exit", "75")
        out, err = client.communicate(REQUEST, DEADLINE)
        self.assertEqual((75, b""), (client.returncode, out))
        self.assertContainsString(err, b"status 75")


class TestBreezy(SshTestCase):
    """What brz shows, with its real client, through a real sshd."""

    def open_now(self):
        super().open_now()
        if compiler.available():
            self.sshd.allow("native", f"{native_client()} alice")

    def assertOneLine(self, host, text):
        line = f"brz: ERROR: Cannot lock a place on the server: {text}\n"
        for words in (
            ("branch", f"bzr+ssh://{host}/trunk", "new"),
            ("pull", "-d", self.source, f"bzr+ssh://{host}/trunk"),
            ("push", "-d", self.source, f"bzr+ssh://{host}/trunk"),
            ("info", f"bzr+ssh://{host}/trunk"),
            ("init", f"bzr+ssh://{host}/made"),
        ):
            done = self.run_program(self.brz(*words))
            self.assertEqual(
                (3, b"", line), (done.returncode, done.stdout, done.stderr.decode())
            )

    def test_commands(self):
        self.make_history()
        self.configure(max_workers=1, queue_timeout=0)
        self.start_service()
        connection = self.connect().open()
        self.assertOneLine("now", "the server is full, try again later")
        if compiler.available():
            self.assertOneLine("native", "the server is full, try again later")
        connection.close()
        self.assertEqual(["exit", "0"], connection.end())


class TestServer(ConchTestCase):
    """The same through lp-serve-ssh."""

    assertOneLine = TestBreezy.assertOneLine

    def test_commands(self):
        self.make_history()
        self.start_server()
        os.makedirs(self.runtime, 0o700, exist_ok=True)
        write_drained(self.runtime, "zurück um zwölf")
        self.assertOneLine("now", "zurück um zwölf")
        done = self.ssh("now", *SERVE)
        self.assertEqual(
            (75, b"", "lp-serve: zurück um zwölf\n"),
            (done.returncode, done.stdout, done.stderr.decode()),
        )

    def test_fallback_off(self):
        self.configure(fallback=False)
        self.start_server()
        done = self.run_program(self.brz("info", "bzr+ssh://now/trunk"))
        line = (
            "brz: ERROR: Cannot lock a place on the server: "
            "no service (No such file or directory)\n"
        )
        self.assertEqual((3, line), (done.returncode, done.stderr.decode()))
