# SPDX-License-Identifier: GPL-2.0-or-later

"""The parsers of the native client give the same results as those in Python."""

import ctypes
import os
import pwd
import random
import shlex

from breezy.tests import TestCaseInTempDir

from ....lpserve import drained, location, wire
from ....lpserve.client import conversation, refusal, sshcommand
from ...client.nativeclient import compiler, native_library

SSH = "SSH_ORIGINAL_COMMAND"


class _Settings(ctypes.Structure):
    _fields_ = [
        ("runtime_dir", ctypes.c_char_p),
        ("service_user", ctypes.c_char_p),
        ("environment", ctypes.POINTER(ctypes.c_char_p)),
        ("autostart", ctypes.c_bool),
        ("fallback", ctypes.c_bool),
        ("connect_timeout", ctypes.c_double),
        ("text", ctypes.c_void_p),
    ]


class _Fault(ctypes.Structure):
    _fields_ = [
        ("status", ctypes.c_int),
        ("text", ctypes.c_char_p),
        ("refused", ctypes.c_bool),
    ]


class _Line(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("fits", ctypes.c_bool),
        ("bytes", ctypes.c_char * wire.MAX_REQUEST),
    ]


class TestParsing(TestCaseInTempDir):
    """Random inputs, and the edges, to both."""

    def setUp(self):
        super().setUp()
        self.requireFeature(compiler)
        self.native = ctypes.CDLL(native_library())
        self.native.runtime_directory.restype = ctypes.c_char_p
        self.native.command_fault.restype = ctypes.c_char_p
        self.native.drained_message.restype = ctypes.c_char_p
        for name in ("is_user", "is_trusted", "compose"):
            getattr(self.native, name).restype = ctypes.c_bool
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
        directory, user = settings.runtime_dir, settings.service_user
        return {
            "runtime_dir": None if not directory else directory.decode(),
            "service_user": None if not user else user.decode(),
            "environment": names,
            "autostart": settings.autostart,
            "fallback": settings.fallback,
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
        names = [each.encode() for each in self.by_python()]
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
        parts = (b"1", b"0", b"_", b".", b"e", b"E", b"+", b"-", b"inf", b"nan", b"x")
        for text in self.some(parts, 7):
            with open("breezy/breezy.conf", "wb") as file:
                file.write(b"[DEFAULT]\nlpserve.connect_timeout = " + text)
            self.assertEqual(self.by_python(), self.configuration(), text)
        for size in (8100, 16300, 100000):
            for number in range(100):
                with open("breezy/breezy.conf", "w") as file:
                    file.write("#" * (size + number) + "\n[DEFAULT]\n")
                    file.write("lpserve.runtime_dir = /there")
                self.assertEqual("/there", self.configuration()["runtime_dir"])

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
        words = (b"bzr", b"brz", b"lp-serve", b"lp-serve-client", b"serve", b"--inet")
        marks = (b"/", b"x", b"x" * 99, b"\xc3\xa9", b";", b"\n", b"\xff", b"\x1b")
        for command in self.some([*words, *marks, *[b" "] * 6]):
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

    def test_quote_without_end(self):
        """FAULT 45: nothing is read behind the end of a line."""
        for line in (b'ok "\\', b'"\\', b'"a\\\\\\', b"'\\", b'"', b"\\"):
            buffer = ctypes.create_string_buffer(line + b'\0x" y')
            self.assertEqual(-1, self.native.split_words(buffer), line)
            self.assertEqual(b'\0x" y\0', buffer.raw[len(line) :], line)

    def test_spawn(self):
        """FAULT 43: the request for a worker, whatever is in the environment."""
        names = ["BRZ_EMAIL", "LANG", "SSH_ORIGINAL_COMMAND", "LC_X", "LPSERVE_USER"]
        listed = (ctypes.c_char_p * (len(names) + 1))(*[n.encode() for n in names])
        parts = (
            b"x",
            b"x" * 60,
            b"'",
            b"'" * 50,
            b" ",
            b"\xc3\xa9",
            b"\xe2\x82\xac" * 30,
        )
        odd = (b"\n", b"\xff", b"\x1b", b"\x7f", b"\xf0\x9f\x98")
        for text in self.some(parts * 3 + odd, 12, 500):
            times = self.chance.choices((0, 1, 1, 9, 40), k=len(names))
            for name, number in zip(names, times, strict=True):
                self.overrideEnv(name, self.text(text * number) if number else None)
            line, fault = _Line(), _Fault()
            fine = self.native.compose(
                ctypes.byref(line), b"alice", listed, None, ctypes.byref(fault)
            )
            try:
                words = conversation.spawn_words("alice", names, os.environ)
            except conversation.ClientError as error:
                self.assertEqual((False, 64), (fine, fault.status))
                self.assertEqual(str(error), fault.text.decode())
                continue
            self.assertTrue(fine, fault.text)
            expected = " ".join(map(conversation.quote, words)) + "\n"
            self.assertEqual(expected, self.text(line.bytes[: line.size]))

    def test_trusted(self):
        """FAULT 44: whose service is."""
        account = pwd.getpwuid(65534)
        users = (None, "", "0", "65534", "-1", "4294967295", "99999999999", "x")
        for user in (*users, account.pw_name, account.pw_name + "x", "065534"):
            for uid in (0, 1, os.geteuid(), 65534, 2**32 - 1):
                trusted = location.uid_fault(uid, user) is None
                chosen = None if user is None else user.encode()
                self.assertEqual(trusted, self.native.is_trusted(uid, chosen), user)

    def test_first_request(self):
        """Of a client that is refused: whether it is whole, and the answer."""
        head = b"bzr message 3 (bzr 1.6)\n"
        part = b"\0\0\0\2de"
        parts = (b"o", b"s", b"b", b"e", part, b"oS", b"s" + part, b"\0\0\7\xd0")
        for text in self.some([*parts, b"\0\0\0\1", b"x" * 2000], 8):
            data = self.chance.choice((head, head, head, head + part, b"bzr")) + text
            data = data[: self.chance.choice((None, None, 30, 10))]
            found = (False, None, True)[self.native.find_request(data, len(data))]
            self.assertIs(refusal.is_request(data), found, data)
        for text in self.some((b"x", b"\xc3\xa9" * 500, b"\xff", b"\xe2\x82", b"\n")):
            line = _Line()
            self.native.compose_error(ctypes.byref(line), text)
            expected = refusal.error_response(self.text(text))
            begin = ctypes.addressof(line) + _Line.bytes.offset
            self.assertEqual(expected, ctypes.string_at(begin, line.size), text)

    def test_drained(self):
        """What users are shown of the administrator's message."""
        odd = "\0\x1b\x7f\x85\xa0\u200b\u2010\u2029\u202e\u2066\ufeff\ufffb\U0001f600"
        parts = [each.encode() for each in (*odd, "a", "é", " ", "\n")]
        for text in self.some([*parts, b"\xff", b"\xe2\x80", b"\xed\xa0\x80"]):
            expected = drained.clean_message(text.decode("utf-8", "replace"))
            found = self.native.drained_message(text, len(text))
            self.assertEqual(expected, found.decode(), text)

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
