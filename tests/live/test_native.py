# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""The native client is hardened, and understands and says what the Python one does.

That it serves is tested with all the others, in test_client.py, test_relay.py and
``blackbox``.
"""

import ctypes
import os
import random
import re
import shlex
import subprocess

from breezy.tests import TestCase, TestCaseInTempDir

from ...lpserve import conversation, location, sshcommand, wire
from ..harness import PLUGIN, LiveTestCase
from ..nativeclient import compiler, native_client, native_library, readelf
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


class _Settings(ctypes.Structure):
    _fields_ = [
        ("runtime_dir", ctypes.c_char_p),
        ("environment", ctypes.POINTER(ctypes.c_char_p)),
        ("autostart", ctypes.c_bool),
        ("connect_timeout", ctypes.c_double),
        ("text", ctypes.c_void_p),
    ]


class _Fault(ctypes.Structure):
    _fields_ = [("status", ctypes.c_int), ("text", ctypes.c_char_p)]


class _Line(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("fits", ctypes.c_bool),
        ("bytes", ctypes.c_char * wire.MAX_REQUEST),
    ]


class TestParsing(TestCaseInTempDir):
    """Its functions and the Python ones find the same in the same."""

    def setUp(self):
        super().setUp()
        self.requireFeature(compiler)
        self.native = ctypes.CDLL(native_library())
        self.native.runtime_directory.restype = ctypes.c_char_p
        self.native.command_fault.restype = ctypes.c_char_p
        self.native.is_user.restype = ctypes.c_bool
        self.native.read_configuration.restype = ctypes.c_bool
        self.chance = random.Random(42)

    def some(self, parts, most=12, count=1500):
        """Words that chance makes of *parts*, bytes."""
        for _ in range(count):
            yield b"".join(self.chance.choices(parts, k=self.chance.randint(0, most)))

    def text(self, data):
        return data.decode("utf-8", "surrogateescape")

    def configuration(self):
        """What it finds in breezy.conf, as `location.read_configuration` gives it."""
        settings, fault = _Settings(), _Fault()
        if not self.native.read_configuration(
            ctypes.byref(settings), ctypes.byref(fault)
        ):
            return fault.text.decode()
        names = []
        while settings.environment[len(names)] is not None:
            names.append(settings.environment[len(names)].decode())
        directory = settings.runtime_dir
        return {
            "runtime_dir": None if not directory else directory.decode(),
            "environment": names,
            "autostart": settings.autostart,
            "connect_timeout": settings.connect_timeout,
        }

    def by_python(self):
        try:
            found = location.read_configuration()
        except ValueError as error:
            return str(error)
        return {**found, "environment": list(found["environment"])}

    def test_configuration(self):
        self.overrideEnv("BRZ_HOME", self.test_dir)
        os.mkdir("breezy")
        names = (b"runtime_dir", b"environment", b"autostart", b"connect_timeout")
        blanks = (b" ", b"\t", b"\r", b"\x0b", b"\x1c", b"\x1f", b"\xc2\xa0")
        ends = (b"\n", b"\r\n", b"\x0c", b"\xc2\x85", b"\xe2\x80\xa8", b"\xe2\x80\x83")
        marks = (b"'", b'"', b"#", b",", b"=", b"[", b"]", b"_", b".", b"-", b"\\")
        values = (b"1", b"30", b"1e2", b"yes", b"OFF", b"LANG", b"/run", b"~", b"+5")
        broken = (b"\xff", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\xed\xa0\x80")
        keys = tuple(b"\nlpserve." + name + b" = " for name in names)
        bom = b"\xef\xbb\xbf"
        frames = (b"\n[DEFAULT]\n", b"\n[ 'DEFAULT' ] # ", b"\n[OTHER]\n", bom)
        parts = [*keys * 4, *values * 4, *marks, *blanks, *ends, *broken, *frames]
        for text in self.some(parts, 30):
            with open("breezy/breezy.conf", "wb") as file:
                file.write(self.chance.choice((b"", bom)))
                file.write(self.chance.choice((b"[DEFAULT]", b"[DEFAULT]", b"")))
                file.write(text)
            self.assertEqual(self.by_python(), self.configuration(), text)

    def test_long_configuration(self):
        self.overrideEnv("BRZ_HOME", self.test_dir)
        os.mkdir("breezy")
        for size in (8100, 16300, 100000):
            for number in range(100):
                with open("breezy/breezy.conf", "w") as file:
                    file.write("#" * (size + number) + "\n[DEFAULT]\n")
                    file.write("lpserve.runtime_dir = /there")
                self.assertEqual("/there", self.configuration()["runtime_dir"])

    def test_seconds(self):
        self.overrideEnv("BRZ_HOME", self.test_dir)
        os.mkdir("breezy")
        parts = (b"1", b"0", b"_", b".", b"e", b"E", b"+", b"-", b"inf", b"nan", b"x")
        for text in self.some(parts, 7):
            with open("breezy/breezy.conf", "wb") as file:
                file.write(b"[DEFAULT]\nlpserve.connect_timeout = " + text)
            self.assertEqual(self.by_python(), self.configuration(), text)

    def test_runtime_directory(self):
        for name in ("LPSERVE_RUNTIME_DIR", "RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"):
            self.overrideEnv(name, None)
        parts = (b"/", b"/", b"..", b".", b"~", b"~root", b"~nobody-", b"a", b"\xff")
        for path in self.some(parts, 8):
            self.overrideEnv("HOME", self.chance.choice(("/h", "/h//", "/", "", None)))
            expected = os.fsencode(location.runtime_directory(os.fsdecode(path)))
            self.assertEqual(expected, self.native.runtime_directory(path, None), path)

    def test_where_it_is_named(self):
        """Which of the places wins."""
        variables = ("LPSERVE_RUNTIME_DIR", "RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR")
        for _ in range(300):
            for name in variables:
                values = (None, "", "/" + name, ":/x", "/a:/b", "~")
                self.overrideEnv(name, self.chance.choice(values))
            given = self.chance.choices((None, "", "/chosen", "~/x"), k=2)
            expected = location.runtime_directory(*given)
            words = [None if each is None else each.encode() for each in given]
            self.assertEqual(
                expected.encode(), self.native.runtime_directory(*words), given
            )

    def test_command(self):
        self.overrideEnv("SSH_TTY", None)
        parts = [
            "bzr",
            "brz",
            "lp-serve",
            "lp-serve-client",
            "serve",
            "--inet",
            "/",
            "x",
            "é",
            ";",
            "\n",
        ]
        words = [each.encode() for each in parts]
        for command in self.some([*words, *[b" "] * 6, b"\xff", b"\x1b"]):
            self.overrideEnv(SSH, self.text(command))
            expected = sshcommand.command_fault(os.environ, False)
            found = self.native.command_fault()
            self.assertEqual(expected, None if found is None else found.decode())

    def test_user(self):
        parts = [bytes([each]) for each in range(1, 128)] + [b"alice", b"\xc3\xa9"]
        for most in (1, 3, 16):
            for text in self.some(parts, most):
                self.assertEqual(
                    wire.is_user(self.text(text)), self.native.is_user(text), text
                )

    def test_words(self):
        parts = (b"'", b'"', b"\\", b" ", b"\t", b"a", b"\xc3\xa9", b"$", b"\xff")
        for word in self.some(parts):
            line = _Line(0, True, b"")
            self.native.add_quoted(ctypes.byref(line), word)
            quoted = line.bytes[: line.size]
            expected = conversation.quote(self.text(word))
            self.assertEqual(expected, self.text(quoted))
            self.check_split(quoted)
            self.check_split(word)

    def check_split(self, line):
        buffer = ctypes.create_string_buffer(line)
        count = self.native.split_words(buffer)
        try:
            expected = shlex.split(self.text(line))
        except ValueError:
            self.assertEqual(-1, count, line)
            return
        words = buffer.raw.split(b"\0")[: max(0, count)]
        self.assertEqual(expected, [self.text(each) for each in words], line)
        self.assertEqual(len(expected), count, line)
