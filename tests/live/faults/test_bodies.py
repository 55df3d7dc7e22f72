# SPDX-License-Identifier: GPL-2.0-or-later

"""Bodies of requests that are too long, or that a read-only service has no use for."""

import os
import select
import struct
import time

from breezy.bzr.smart import request

from ....lpserve.serving import intake
from ...harness import DEADLINE, HELLO, LiveTestCase, read_line, wait_until

MARKER = b"bzr message 3 (bzr 1.6)\n"
MIB = 1 << 20
#: The beginning of a stream of revisions: the format of where they come from.
_FORMAT = b"Bazaar repository format 2a (needs bzr 1.16 or later)\n"
STREAM = b"Bazaar pack format 1 (introduced in 0.18)\nB%d\n\n%s" % (
    len(_FORMAT),
    _FORMAT,
)


def prefixed(data):
    return struct.pack("!L", len(data)) + data


def fake_ssh(directory):
    """A program that Breezy takes for ssh(1), and that asks the service; its path."""
    path = os.path.join(directory, "ssh")
    with open(path, "w") as file:
        file.write(
            '#!/bin/sh\ntest "$1" = -V && exec echo OpenSSH_9 >&2\n'
            "exec lp-serve-client alice\n"
        )
    os.chmod(path, 0o700)
    return path


def write_all(descriptor, data):
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def beginning(*words):
    """A request in the third version of the protocol, up to its body."""
    args = b"".join(b"%d:%s" % (len(word), word) for word in words)
    return MARKER + prefixed(b"de") + b"s" + prefixed(b"l" + args + b"e")


class BodiesCase(LiveTestCase):
    """With a connection to a service that is read-only, if `writable` is not set.

    :cvar writable: whether clients may change what is served.
    """

    writable = False

    def brz(self, *words):
        left_out = () if self.writable else ("--allow-writes",)
        return super().brz(*(word for word in words if word not in left_out))

    def setUp(self):
        super().setUp()
        self.run_brz("init", "-q", os.path.join(self.root, "branch"))
        self.configure(spare_workers=1)
        self.start_service()
        self.come()

    def come(self):
        """Make a connection: `made`."""
        self.made = self.connect().open()
        self.hello()
        self.before = self.peak()

    def hello(self):
        """The worker answers, and has read exactly what was sent."""
        self.assertEqual(HELLO, self.made.hello())

    def peak(self):
        """The most memory that the worker has had, in bytes."""
        with open(f"/proc/{self.made.pid}/status") as file:
            return next(
                int(line.split()[1]) << 10 for line in file if line[:6] == "VmHWM:"
            )

    def assertLittle(self, most=8 * MIB):
        """The worker has not taken more than *most* bytes of memory."""
        self.assertTrue(self.peak() - self.before < most, self.peak() - self.before)

    def send(self, data, count=1):
        for _ in range(count):
            write_all(self.made.stdin, data)

    def message(self):
        """The error with which a request is answered; its words."""
        self.assertEqual(MARKER, read_line(self.made.stdout))
        headers = self.read(*struct.unpack("!L", self.read(4)))
        self.assertContainsString(headers, b"Software version")
        self.assertEqual(b"oEs", self.read(3))
        words = self.read(*struct.unpack("!L", self.read(4)))
        self.assertEqual(b"e", self.read(1))
        return words

    def read(self, count):
        data = b""
        end = time.monotonic() + DEADLINE
        while len(data) < count:
            left = end - time.monotonic()
            ready = select.select([self.made.stdout], [], [], max(0, left))[0]
            self.assertTrue(ready, data)
            more = os.read(self.made.stdout, count - len(data))
            self.assertTrue(more, "it has not ended")
            data += more
        return data

    def assertGivenUp(self, why):
        """The worker ends with one line that says *why*."""
        self.assertEqual(b"lp-serve: " + why + b"\n", read_line(self.made.stderr))
        self.assertEqual(["exit", "3"], self.made.end())
        self.assertEqual(b"", read_line(self.made.stderr))


class TestReadOnly(BodiesCase):
    """FAULT 59: the body of a request that is refused is not kept in memory."""

    def test_announced(self):
        """The answer comes before the body."""
        self.send(beginning(b"put", b"a", b"") + b"b" + struct.pack("!L", 100 * MIB))
        self.assertEqual(b"l13:ReadOnlyErrore", self.message())
        self.send(b"x" * MIB, 100)
        self.send(b"e")
        self.hello()
        self.assertLittle()

    def test_old(self):
        """The old protocol, in which the answer comes after the body."""
        self.send(b"bzr request 2\nput\x01a\x01\n%d\n" % (50 * MIB))
        self.send(b"x" * MIB, 50)
        self.send(b"done\n")
        answer = [read_line(self.made.stdout) for _ in range(3)]
        self.assertEqual([b"bzr response 2\n", b"failed\n", b"ReadOnlyError\n"], answer)
        self.hello()
        self.assertLittle()

    def test_verbs(self):
        """All verbs that write and have a body, with their arguments."""
        path = b"branch/"
        for verb in (
            (b"append", b"a", b""),
            (b"put_non_atomic", b"a", b"", b"F", b""),
            (b"Branch.set_tags_bytes", path, b"", b""),
            (b"Branch.put_config_file", path, b"token", b"token"),
            (b"Repository.add_signature_text", path, b"token", b"rev", b"token"),
            (b"Repository.insert_stream", path, b""),
            (b"Repository.insert_stream_1.19", path, b"", b"token"),
            (b"Repository.insert_stream_locked", path, b"", b"token"),
            (b"Repository.pack", path, b"token", b"False"),
        ):
            self.assertIn(
                request.request_handlers.get(verb[0]), intake.writing_requests()
            )
            self.send(beginning(*verb))
            self.send(b"b" + prefixed(b"x" * MIB), 20)
            self.send(b"oSe")
            self.message()
            self.hello()
        self.assertLittle()

    def test_unknown(self):
        """The body of an unknown verb is not kept either."""
        self.send(beginning(b"new") + b"b" + prefixed(b"x" * (20 * MIB)) + b"e")
        self.assertEqual(b"l13:UnknownMethod3:newe", self.message())
        self.hello()
        self.assertLittle()

    def test_push(self):
        """The client gets one line."""
        place = os.path.join(self.test_dir, "local")
        self.run_brz("init", "-q", place)
        self.run_brz("commit", "-q", "--unchanged", "-m", "one", place, BRZ_EMAIL="a")
        ssh = fake_ssh(self.test_dir)
        for name in ("branch", "new"):
            done = self.run_program(
                self.brz("push", "-q", "-d", place, f"bzr+ssh://host/{name}"),
                BRZ_SSH=ssh,
            )
            self.assertEqual(3, done.returncode)
            self.assertContainsRe(done.stderr, b"(?i)read.?only")
            self.assertEqual(1, done.stderr.count(b"\n"), done.stderr)


class TestTooLong(BodiesCase):
    """FAULT 59: a body that is too long is not kept in memory."""

    writable = True

    def test_announced(self):
        self.send(beginning(b"readv", b"a") + b"b" + struct.pack("!L", 100 * MIB))
        self.assertContainsString(self.message(), b"has a body of 33554432 bytes")
        self.send(b"x" * MIB, 100)
        self.send(b"e")
        self.hello()
        self.assertLittle()

    def test_parts(self):
        """The parts of a body are counted together."""
        self.send(beginning(b"readv", b"a"))
        self.send(b"b" + prefixed(b"x" * MIB), 100)
        self.send(b"e")
        self.assertContainsString(self.message(), b"has a body of 33554432 bytes")
        self.hello()
        self.assertLittle(intake.LONGEST + 8 * MIB)

    def test_old(self):
        self.send(b"readv\x01a\n%d\n" % (50 * MIB))
        self.send(b"x" * MIB, 50)
        self.send(b"done\n")
        self.assertContainsString(read_line(self.made.stdout), b"bytes at most")
        self.hello()
        self.assertLittle()

    def test_given_up(self):
        """The connection ends where nobody knows what the rest of it means."""
        too_long = b"the client announces 4294967295 bytes of arguments"
        for data, why in (
            (MARKER + prefixed(b"de") + b"s\xff\xff\xff\xff", too_long),
            (MARKER + b"\xff\xff\xff\xff", too_long),
            (b"x" * (32 * MIB + (1 << 16)), b"the client sent a line that is too long"),
        ):
            self.send(data)
            self.assertGivenUp(why)
            self.come()
        self.send(beginning(b"get", b"a") + b"?")
        self.message()
        self.assertGivenUp(b"the client sent an invalid request")


class TestWritable(BodiesCase):
    """A body that is allowed and not too long."""

    writable = True

    def test_put(self):
        self.send(beginning(b"put", b"a", b"") + b"b" + prefixed(b"x" * (40 * MIB)))
        self.send(b"e")
        self.assertEqual(MARKER, read_line(self.made.stdout))
        self.assertEqual(40 * MIB, os.path.getsize(os.path.join(self.root, "a")))

    def test_stream(self):
        """A stream whose insertion has failed is not kept in memory."""
        self.send(beginning(b"Repository.insert_stream", b"branch/", b""))
        self.send(b"b" + prefixed(b"x\n" * (MIB // 2)), 100)
        self.send(b"oSe")
        self.assertContainsString(self.message(), b"error")
        self.hello()
        self.assertLittle(40 * MIB)

    def test_half_a_stream(self):
        """A client that goes in mid-stream leaves no files."""
        upload = os.path.join(self.root, "branch", ".bzr", "repository", "upload")
        self.send(beginning(b"Repository.insert_stream", b"branch/", b""))
        self.send(b"b" + prefixed(STREAM))
        wait_until(lambda: os.listdir(upload), "it has begun")
        os.close(self.made.stdin)
        self.made.stdin = -1
        self.assertEqual(["exit", "0"], self.made.end())
        self.assertEqual([], os.listdir(upload))
