# SPDX-License-Identifier: GPL-2.0-or-later

"""The native client is hardened, and says what the Python one does.

test_native_parsing.py compares what they understand. test_client.py, test_relay.py
and tests/blackbox run with both.
"""

import os
import re
import subprocess

from breezy.tests import TestCase

from ...client.nativeclient import compiler, native_client, readelf
from ...harness import LiveTestCase
from .fake_service import FakeService

SSH = "SSH_ORIGINAL_COMMAND"


class TestHardening(TestCase):
    """The flags of the compiler have had their effect."""

    def inspect(self, path, *options):
        done = subprocess.run(
            ["readelf", "-W", *options, path],
            capture_output=True,
            text=True,
            env={**os.environ, "LC_ALL": "C"},
            check=True,
        )
        return done.stdout

    def test_program(self):
        self.requireFeature(compiler)
        self.requireFeature(readelf)
        for static in (True, False):
            path = native_client(static=static)
            self.assertContainsRe(self.inspect(path, "-h"), r"Type: +DYN")
            segments = self.inspect(path, "-l")
            self.assertContainsRe(segments, r"GNU_STACK .* RW +0x")
            self.assertContainsRe(segments, "GNU_RELRO ")
            self.assertNotContainsRe(segments, r"LOAD .* RWE ")
            dynamic = self.inspect(path, "-d")
            self.assertContainsRe(dynamic, r"FLAGS_1.* NOW.* PIE|BIND_NOW")
            self.assertNotContainsRe(dynamic, "TEXTREL|RPATH|RUNPATH")
            symbols = self.inspect(path, "-s")
            self.assertContainsString(symbols, "__stack_chk_fail")
            self.assertContainsString(symbols, "printf_chk")
        # The second one is linked with the C library, and with nothing else.
        needed = re.findall(r"NEEDED.*\[(.*?)\]", dynamic)
        self.assertEqual(1, len(needed), needed)
        self.assertStartsWith(needed[0], "libc.")


class TestSame(LiveTestCase):
    """Status, standard output and error are those of the Python client."""

    def setUp(self):
        super().setUp()
        self.requireFeature(compiler)

    def both(self, *words, **env):
        """What comes of running each."""
        found = []
        for program in (self.client_path, native_client()):
            done = self.run_program([program, *words], **env)
            found.append((done.returncode, done.stdout, done.stderr))
        return found

    def check(self, *words, **env):
        python, native = self.both(*words, **env)
        self.assertEqual(python, native, f"{words} {env}")
        return native[0]

    def test_command_line(self):
        for words in (
            ["--help"],
            ["a", "--help", "--frobnicate", "b"],
            [],
            ["a", "b", "c"],
            ["--runtime-dir", "/x", "--door=fifo"],
            ["a", "--runtime-dir"],
            ["a", "--door"],
            ["a", "--door="],
            ["a", "--door", "back"],
            ["a", "--door", "back", "--door=fifo", "--no-fallback"],
            ["--"],
            ["--no-fallback=x", "a"],
            ["--runtime-dirt=/x", "a"],
            ["--d", "a"],
            [b"--\xff\xc3\xa9\xc3", "a"],
            ["", "--no-fallback"],
            ["-a"],
            ["a\nb"],
            [b"\xff"],
            ["a" * 65],
            ["a" * 64, "--no-fallback"],
            ["x" * 100000],
            ["--" + "x" * 100000],
        ):
            self.check(*words)
        for door in ("fifo", "socket"):
            self.assertEqual(69, self.check("a", "--no-fallback", "--door", door))
        # What sshd was asked for; the texts are compared in test_native_parsing.py.
        for command, status in (("a b\nc\x1b[2J\x7f", 64), ("bzr serve --inet", 69)):
            found = self.check("a", "--no-fallback", **{SSH: command})
            self.assertEqual(status, found)

    def test_runtime_directory(self):
        """What is wrong with it, at each door; a user of ssh is told no path."""
        users = ({}, {SSH: "bzr serve --inet"}, {"SSH_CONNECTION": "::1 1 ::1 22"})

        def check():
            for door in ([], ["--door", "fifo"], ["--door", "socket"]):
                for env in users:
                    words = ("a", "--no-fallback", *door)
                    python, native = self.both(*words, **env)
                    self.assertEqual(python, native, f"{words} {env}")
                    self.assertEqual(69, native[0])
                    if env:
                        self.assertNotIn("/", native[2].decode())

        check()
        os.mkdir(self.runtime, 0o700)
        check()
        control = os.path.join(self.runtime, "control")
        with open(control, "w"), open(os.path.join(self.runtime, "socket"), "w"):
            check()
        os.unlink(control)
        os.mkfifo(control)
        for mode in (0o700, 0o777, 0o1730, 0o000):
            os.chmod(self.runtime, mode)
            check()
        os.chmod(self.runtime, 0o700)
        os.unlink(control)
        os.unlink(os.path.join(self.runtime, "socket"))
        fake = FakeService(self, "socket")
        for mode in (0o777, 0o1730):
            os.chmod(self.runtime, mode)
            check()
        with open(self.config, "w") as file:
            file.write("[DEFAULT]\nlpserve.autostart = yes\n")
        check()
        os.unlink(self.config)
        os.chmod(self.runtime, 0o700)
        fake.close()
        deep = self.runtime + "/x" * 3000
        for path in ("/dev/null", "/dev/null/x", "/" + "x" * 300, deep):
            self.runtime = path
            check()
        if os.geteuid() == 0:
            self.runtime = os.path.join(self.test_dir, "theirs")
            os.mkdir(self.runtime, 0o700)
            os.chown(self.runtime, 65534, 65534)
            check()
