# SPDX-License-Identifier: GPL-2.0-or-later

"""The native client is hardened, and understands and says what the Python one does.

That it serves is tested with all the others, in test_client.py, test_relay.py and
``blackbox``.
"""

import os
import re
import subprocess

from breezy.tests import TestCase

from ...client.nativeclient import compiler, native_client, readelf
from ...harness import PLUGIN, LiveTestCase
from .fake_service import FakeService

SSH = "SSH_ORIGINAL_COMMAND"


class TestHardening(TestCase):
    """The flags have been of use: the program has what they are for."""

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

    def test_needs_nothing_but_libc(self):
        self.requireFeature(compiler)
        self.requireFeature(readelf)
        dynamic = self.inspect(native_client(static=False), "-d")
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
        for program in (
            os.path.join(PLUGIN, "bin", "lp-serve-client"),
            native_client(),
        ):
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
            ["a", "b", "--door", "back"],
            ["-"],
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
        for status, door in ((69, "fifo"), (69, "socket")):
            found = self.check("a", "--no-fallback", "--door", door)
            self.assertEqual(status, found)

    def test_refusals(self):
        for command in (
            "",
            " ",
            "sh",
            "bzr",
            "bzr ",
            "bzr serve",
            "bzr  serve --inet",
            "x/bzr serve --inets",
            "/",
            "bzr/serve --inet",
            "a b\nc\x1b[2J\x7f",
            "x" * 200,
            "é" * 100,
            b"\xff" * 100 + b"\xc3\xa9",
            b"\xe2\x82 \xf0\x9f\x98 \xed\xa0\x80 \xf4\x90\x80\x80",
        ):
            self.assertEqual(64, self.check("a", **{SSH: command}))
        for command in (
            "bzr serve --inet",
            "/x/brz lp-serve --inet",
            "lp-serve-client",
        ):
            found = self.check("a", "--no-fallback", **{SSH: command})
            self.assertEqual(69, found, command)

    def test_paths(self):
        """A user of ssh is told none; what does not fit is refused, or left out."""
        users = ({SSH: "bzr serve --inet"}, {"SSH_CONNECTION": "::1 1 ::1 22"})
        doors = ([], ["--door", "fifo"], ["--door", "socket"])

        def check():
            for env in users:
                for door in doors:
                    status, _, said = self.both("a", "--no-fallback", *door, **env)[1]
                    self.check("a", "--no-fallback", *door, **env)
                    self.assertEqual(69, status)
                    self.assertNotIn(b"/", said)

        check()
        os.mkdir(self.runtime, 0o700)
        check()
        os.mkfifo(os.path.join(self.runtime, "control"), 0o600)
        check()
        fake = FakeService(self, "socket")
        os.chmod(self.runtime, 0o777)
        check()
        fake.close()
        os.chmod(self.runtime, 0o700)
        self.write(b"[DEFAULT]\nlpserve.autostart = yes\n")
        check()
        runtime, self.runtime = self.runtime, "/dev/null/x"
        check()
        self.runtime = runtime
        os.unlink(os.path.join(runtime, "control"))

    def test_what_does_not_fit(self):
        """FAULT 43: it is refused, or left out; the slow way is not taken for it."""
        fake = FakeService(self)
        self.configure(connect_timeout=0)
        for value in ("x" * 5000, "a\nb", b"\xff"):
            self.assertEqual(64, self.check("a", BRZ_EMAIL=value))
            for name in ("LANG", "LC_ALL", "TZ"):
                self.assertEqual(69, self.check("a", "--no-fallback", **{name: value}))
        command = "bzr serve --inet " + "x" * 5000
        self.assertEqual(69, self.check("a", "--no-fallback", **{SSH: command}))
        fake.close()

    def test_configuration(self):
        for text in (
            b"lpserve.autostart = maybe",
            b"lpserve.autostart",
            b"lpserve.connect_timeout = soon",
            b"lpserve.connect_timeout = 1_0_ # x",
            b"lpserve.connect_timeout = 0x10",
            b"lpserve.connect_timeout = nan",
            b"lpserve.connect_timeout = -1",
            b"lpserve.connect_timeout = 1e999",
        ):
            self.write(b"[DEFAULT]\n" + text)
            self.assertEqual(64, self.check("a"))
        for text in (
            b"lpserve.runtime_dir = /some where/./else/.. # else",
            b"lpserve.runtime_dir = '/some\xff where'",
            b"lpserve.runtime_dir = relative//../\xc3\xa9",
        ):
            self.write(b"\xef\xbb\xbf[DEFAULT]\r\n" + text)
            self.assertEqual(69, self.check("a", "--no-fallback"))
        os.unlink(self.config)
        os.mkdir(self.config)
        self.assertEqual(69, self.check("a", "--no-fallback"))

    def write(self, data):
        with open(self.config, "wb") as file:
            file.write(data)

    def test_runtime_directory(self):
        """What is wrong with it, at each door."""

        def check():
            for door in ([], ["--door", "fifo"], ["--door", "socket"]):
                self.assertEqual(69, self.check("a", "--no-fallback", *door))

        os.mkdir(self.runtime, 0o700)
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
