# SPDX-License-Identifier: GPL-2.0-or-later

"""The native client does nothing wrong to memory, whatever it is given."""

import contextlib
import os
import random
import re
import subprocess

from breezy.tests.scenarios import load_tests_apply_scenarios

from ...client.nativeclient import (
    compiler,
    native_client,
    sanitized_client,
    sanitizers,
    valgrind,
)
from ...harness import DEADLINE, LiveTestCase, read_line
from .fake_service import FakeService, pattern, read_exactly, read_to_end

load_tests = load_tests_apply_scenarios

SSH = "SSH_ORIGINAL_COMMAND"
#: What no service says, before and after "ok".
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
    """Under a tool that sees what a program does to memory it does nothing wrong."""

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
        started = subprocess.Popen(
            self.words("alice", "--no-fallback", *words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**self.env, **env},
        )
        self.addCleanup(self._end, started)
        return started

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
            self.assertContainsString(client.stderr.read(), b'busy: so "sorry" and so')
            fake.close()
            self.assertNothingFound()

    def some(self, cases):
        """All of them, but under a slow tool a few."""
        return cases if self.tool == "sanitizers" else cases[::11]

    def test_rubbish_answers(self):
        for door in ("fifo", "socket"):
            fake = FakeService(self, door)
            for line in self.some(RUBBISH):
                client = self.begin()
                fake.open_reply(fake.request())
                fake.close_worker()
                with contextlib.suppress(BrokenPipeError):
                    os.write(fake.reply, line)
                if not line.endswith(b"\n"):
                    client.terminate()
                early = line.startswith((b"exit", b"signal"))
                why = b"ended before it had" if early else b"does not understand"
                self.check_not_served(client, line, why)
                fake.hang_up()
            self.assertNothingFound()
            fake.close()

    def test_rubbish_at_the_end(self):
        for door in ("fifo", "socket"):
            fake = FakeService(self, door)
            for line in self.some(RUBBISH):
                client = self.begin()
                fake.accept()
                fake.close_worker()
                with contextlib.suppress(BrokenPipeError):
                    os.write(fake.reply, line)
                if not line.endswith(b"\n"):
                    os.write(fake.reply, b"\n")
                self.check_not_served(client, line, b"does not understand")
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

    def test_rubbish_from_the_user(self):
        """In breezy.conf, in the environment, on the command line."""
        chance = random.Random(4)
        long = "x" * 100000
        for number in range(50 if self.tool == "sanitizers" else 2):
            self.write_rubbish(chance)
            self.assertIn(self.run_once("a", "--no-fallback"), (64, 69), number)
        self.write_rubbish(random.Random(5), 300000)
        self.assertIn(self.run_once("a", "--no-fallback"), (64, 69))
        for size in (8191, 8192, 16384):
            with open(self.config, "w") as file:
                file.write("#" * size)
            self.assertEqual(69, self.run_once("a", "--no-fallback"))
        os.unlink(self.config)
        cases = (
            (["a"], {SSH: b"\xf0\x9f" * 200}),
            (["--" + long], {}),
            (["a", "--runtime-dir", long], {}),
            (["a", "--runtime-dir", "~" + long + "/../../~"], {}),
            (["a"], {SSH: long}),
            (["a"], {"BRZ_HOME": long}),
            (["a", "--runtime-dir", "~"], {"HOME": "/"}),
            (["a"], {"BRZ_HOME": "~root", "HOME": ""}),
        )
        for words, env in self.some(cases):
            self.assertIn(self.run_once("--no-fallback", *words, **env), (64, 69))
        # There is a service, which does not answer.
        fake = FakeService(self)
        self.configure(connect_timeout=0)
        values = (long, "'" * 4000, "\n", b"\xff", "'" * 790, "x" * 4000)
        for value in self.some(values):
            for name in ("BRZ_EMAIL", "LANG", "SSH_CLIENT"):
                status = self.run_once("a", "--no-fallback", **{name: value})
                self.assertIn(status, (64, 69), value)
        fake.close()
        self.assertNothingFound()

    def write_rubbish(self, chance, size=300):
        """A breezy.conf of what has a meaning there, and of what has none."""
        parts = (
            b"[DEFAULT]\n",
            b"[",
            b"]",
            b"\n",
            b"lpserve.",
            b"runtime_dir",
            b"environment",
            b"connect_timeout",
            b"autostart",
            b"=",
            b"'",
            b'"',
            b"#",
            b",",
            b" ",
            b"1e5",
            b"~",
            b"/",
            b"..",
            b"\0",
            b"\xff",
            b"\xc2\x85",
            b"\xe2\x80",
            b"\xf0\x9f\x98\x80",
            b"\xef\xbb\xbf",
        )
        with open(self.config, "wb") as file:
            file.write(b"[DEFAULT]\n" if chance.random() < 0.8 else b"")
            file.write(b"".join(chance.choices(parts, k=size)))

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
