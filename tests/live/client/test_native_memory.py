# SPDX-License-Identifier: GPL-2.0-or-later

"""The native client makes no error with memory, whatever it is given."""

import contextlib
import os
import re

from breezy.tests.scenarios import load_tests_apply_scenarios

from ....lpserve.client.refusal import error_response
from ...client.nativeclient import (
    compiler,
    native_client,
    sanitized_client,
    sanitizers,
    valgrind,
)
from ...harness import DEADLINE, LiveTestCase, read_line
from .fake_service import REQUEST, FakeService, pattern, read_exactly, read_to_end

load_tests = load_tests_apply_scenarios

SSH = "SSH_ORIGINAL_COMMAND"
#: Answers that no service gives.
RUBBISH = (
    b"\n",
    b"'\n",
    b"ok\n",
    b"ok \n",
    b"ok 0\n",
    b"ok -1\n",
    b"ok 99999999999\n",
    b"ok 1 2\n",
    b"ok 1 '' '' '' ''\n",
    b"error\n",
    b"yes 1\n",
    b"ok\0 1\n",
    b"exit\n",
    b"exit 256\n",
    b"exit 1x\n",
    b"signal 0\n",
    b"signal 65\n",
    b"exit 1 2\n",
    b"\xff\xfe \\\n",
    b'"\\',
    b"x" * 70000 + b"\n",
)


class TestChecked(LiveTestCase):
    """Under a tool that checks how a program uses memory."""

    scenarios = [
        ("AddressSanitizer", {"tool": "sanitizers"}),
        ("valgrind", {"tool": "valgrind"}),
    ]

    def setUp(self):
        super().setUp()
        self.requireFeature(compiler)
        if self.tool == "valgrind":
            self.requireFeature(valgrind)
            self.program = native_client("-g", static=False)
        else:
            self.requireFeature(sanitizers)
            self.program = sanitized_client()
        self.log = os.path.join(self.test_dir, "tool.log")

    @property
    def env(self):
        # In log_path the number of the process follows.
        options = f"exitcode=99:detect_leaks=0:log_path={self.log}"
        return {
            **super().env,
            "ASAN_OPTIONS": options,
            "UBSAN_OPTIONS": f"print_stacktrace=1:{options}",
        }

    def words(self, *words):
        if self.tool == "sanitizers":
            return [self.program, *words]
        return [
            "valgrind",
            "--quiet",
            "--error-exitcode=99",
            "--leak-check=full",
            "--track-fds=yes",
            f"--log-file={self.log}.%p",
            self.program,
            *words,
        ]

    def assertNothingFound(self):
        """The tool had nothing to say; then it starts anew."""
        for name in os.listdir(self.test_dir):
            if name.startswith("tool.log"):
                with open(name) as file:
                    self.check_log(file.read())
                os.unlink(name)

    def check_log(self, log):
        # What valgrind says of calls that are newer than itself, and of the
        # descriptors that are open at the end, which are to be stdio and one more.
        text = re.sub(r"(?m)^--\d+-- .*\n", "", log)
        for part in re.split(r"(?m)^==\d+== *$", text):
            if part.strip() and not re.search("FILE DESC|signalfd|inherited", part):
                self.fail(f"{self.tool} says: {log}")

    def begin(self, *words, **env):
        return self.start_words(self.words("alice", "--no-fallback", *words), **env)

    def run_once(self, *words, **env):
        """A client that finds no service; its status."""
        done = self.run_program(self.words(*words), **env)
        self.assertNotEqual(99, done.returncode, done.stderr)
        return done.returncode

    def serve(self, fake):
        """A connection with bytes in both directions, through a fake service."""
        data = pattern(200000)
        client = self.begin(BRZ_EMAIL='it\'s "me" <a@b>')
        request = fake.accept()
        self.assertEqual('it\'s "me" <a@b>', request.env["BRZ_EMAIL"])
        os.write(client.stdin.fileno(), data[:50000])
        self.assertEqual(data[:50000], read_exactly(fake.stdin, 50000))
        os.write(fake.stderr, b"to the user\n")
        self.assertEqual(b"to the user\n", read_line(client.stderr.fileno()))
        os.write(fake.stdout, data[:50000])
        self.assertEqual(data[:50000], read_exactly(client.stdout.fileno(), 50000))
        client.stdin.close()
        self.assertEqual(b"", read_to_end(fake.stdin))
        fake.close_worker()
        fake.answer("exit", 0)
        self.assertEqual(b"", client.stdout.read())
        self.assertEqual(0, client.wait(DEADLINE), client.stderr.read())
        fake.hang_up()

    def test_connection(self):
        for door in ("fifo", "socket"):
            fake = FakeService(self, door)
            self.serve(fake)
            # A signal, and an end that is told.
            client = self.begin()
            fake.accept()
            if self.tool == "sanitizers":  # valgrind has no pidfd_send_signal
                client.terminate()
                self.assertEqual(-15, fake.worker.wait(DEADLINE))
            fake.close_worker()
            fake.answer("signal", 15)
            self.assertEqual(143, client.wait(DEADLINE))
            fake.hang_up()
            # A refusal.
            client = self.begin()
            fake.refuse(b"error busy 'so \"sorry\"' and so on\n")
            self.assertEqual(75, client.wait(DEADLINE))
            said = client.stderr.read()
            self.assertEqual(b'lp-serve-client: so "sorry" and so on\n', said)
            fake.close()
            self.assertNothingFound()

    def some(self, cases):
        """All of them, but under a slow tool a few."""
        return cases if self.tool == "sanitizers" else cases[::11]

    def test_rubbish_answers(self):
        """In place of the first answer, and of the last one."""
        for door in ("fifo", "socket"):
            fake = FakeService(self, door)
            for line in self.some(RUBBISH):
                for served in (False, True):
                    client = self.begin()
                    if served:
                        fake.accept()
                    else:
                        fake.open_reply(fake.request())
                    fake.close_worker()
                    with contextlib.suppress(BrokenPipeError):
                        os.write(fake.reply, line)
                    if not line.endswith(b"\n"):
                        if served:
                            os.write(fake.reply, b"\n")
                        else:
                            client.terminate()
                    early = not served and line.startswith((b"exit", b"signal"))
                    why = b"ended before it had" if early else b"does not understand"
                    self.check_not_served(client, line, why)
                    fake.hang_up()
                    fake.remove_connection()
            self.assertNothingFound()
            fake.close()

    def check_not_served(self, client, line, why):
        """It ends with 69 and one line, or by a signal that it was sent."""
        status = client.wait(DEADLINE)
        said = client.stderr.read()
        self.assertIn(status, (69, 143), (line, said))
        self.assertEqual(b"", client.stdout.read())
        self.assertEqual(1, said.count(b"\n"), (line, said))
        if status == 69:
            self.assertContainsString(said, why)

    def test_refused(self):
        """With a text that an administrator may give, and requests that clients may."""
        os.mkdir(self.runtime, 0o700)
        text = b"\xc3\xa9\xff\x1b" + b"x" * 600
        with open(os.path.join(self.runtime, "drained"), "wb") as file:
            file.write(text)
        shown = "\xe9\ufffd?" + "x" * 508
        for data in (REQUEST, REQUEST * 60):
            done = self.run_program(self.words("a"), data)
            self.assertEqual((75, b""), (done.returncode, done.stderr))
            self.assertEqual(error_response(shown), done.stdout)
        for data in (b"hello\n", REQUEST[:-1], REQUEST[:24] + b"\xff" * 9000):
            done = self.run_program(self.words("a"), data)
            line = f"lp-serve-client: {shown}\n"
            self.assertEqual((75, line), (done.returncode, done.stderr.decode()))
        self.assertNothingFound()

    def test_long_words(self):
        """On the command line and in the environment; test_native_fuzz.py has more."""
        long = "x" * 100000
        cases = (
            (["--" + long], {}),
            (["a", "--runtime-dir", "~" + long + "/../../~"], {}),
            (["a"], {SSH: long}),
            (["a"], {"BRZ_HOME": long}),
            (["a", "--runtime-dir", "~"], {"HOME": "/"}),
            (["a"], {"BRZ_HOME": "~root", "HOME": ""}),
        )
        for words, env in cases:
            self.assertIn(self.run_once("--no-fallback", *words, **env), (64, 69))
        self.assertNothingFound()

    def test_autostart(self):
        """By a Breezy that cannot, and says why in an unusual way."""
        self.configure(autostart=True)
        os.mkdir("path")
        brz = os.path.abspath("path/brz")
        for script, text in (
            ("exit 1", b"no reason given"),
            ("exec grep -hs SigBlk /proc/self/status /none >&2", b"SigBlk:\t"),
            ("printf 'one\\n\\377two\\n \\n' >&2; exit 1", b"\xef\xbf\xbdtwo"),
            ("head -c 50000 /dev/zero | tr '\\0' x >&2; kill -9 $$", b"xxxx"),
        ):
            with open(brz, "w") as file:
                file.write(f"#!/bin/sh\n{script}\n")
            os.chmod(brz, 0o755)
            path = os.path.dirname(brz) + ":/usr/bin:/bin"
            words = self.words("a", "--no-fallback")
            done = self.run_program(words, PATH=path)
            self.assertEqual((69, b""), (done.returncode, done.stdout), done.stderr)
            self.assertContainsString(done.stderr, b"cannot be started: ")
            self.assertContainsString(done.stderr, text)
            if self.tool == "sanitizers":  # valgrind blocks signals itself
                # It does not inherit that the client waits for signals.
                self.assertNotContainsRe(done.stderr, rb"SigBlk:\t0*[1-9a-f]")
            self.assertNothingFound()
