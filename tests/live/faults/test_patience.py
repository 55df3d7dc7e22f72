# SPDX-License-Identifier: GPL-2.0-or-later

"""Clients that stand still in the middle of a request, and those that are only slow."""

import contextlib
import os
import select
import socket
import subprocess
import time

from breezy.tests.scenarios import load_tests_apply_scenarios

from ....lpserve.client import socketconversation
from ...harness import (
    DEADLINE,
    HELLO,
    LiveTestCase,
    SocketConnection,
    read_line,
    wait_until,
)
from .test_bodies import MARKER, prefixed

load_tests = load_tests_apply_scenarios

SILENT = b"the client sent nothing for %g s in the middle of a request"
DEAF = b"the client read nothing of its answer for %g s"
#: More than a pipe and a socket hold.
BIG = bytes(range(256)) * (1 << 13)
#: Whose standard input and output are of which kind.
WAYS = [
    ("fifo", {"way": "fifo"}),
    ("socket", {"way": "socket"}),
    ("inet", {"way": "inet"}),
]


#: The beginnings of a request in each version of the protocol, and of a body.
GET = MARKER + prefixed(b"de") + b"s" + prefixed(b"l3:put1:a0:e")
BEGINNINGS = (
    b"h",
    b"bzr request 2\nhel",
    MARKER[:-1],
    MARKER + b"\0\0",
    GET[:-4],
    GET,
    GET + b"b\0\0",
    GET + b"b\0\1\0\0xxxx",
    b"put\x01a\x01\n12",
    b"bzr request 2\nput\x01a\x01\n12\nxxx",
    b"put\x01a\x01\n1\nxdone",
)


class OneSocket(SocketConnection):
    """Standard input and output are a socket, as sshd has it."""

    def ask(self, words, deadline):
        ours, theirs = socket.socketpair()
        self.stderr, stderr = os.pipe()
        stdio = (theirs.fileno(), theirs.fileno(), stderr)
        self.conversation.send(words, deadline, stdio)
        theirs.close()
        os.close(stderr)
        self.stdin = ours.detach()
        self.stdout = os.dup(self.stdin)


class Inet:
    """The same without a service."""

    def __init__(self, case):
        self.process = subprocess.Popen(
            case.brz("lp-serve", "--inet", "alice", "--allow-writes"),
            env=case.env,
            cwd=case.test_dir,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        case.addCleanup(case._end, self.process)
        self.stdin = self.process.stdin.fileno()
        self.stdout = self.process.stdout.fileno()
        self.stderr = self.process.stderr.fileno()

    def end(self):
        return ["exit", str(self.process.wait(DEADLINE))]


class PatienceCase(LiveTestCase):
    way = "fifo"

    def start(self, **options):
        """Configure, and start a service unless connections are without one."""
        self.options = {"directory": self.root, **options}
        self.configure(**self.options)
        if self.way != "inet":
            self.start_service()

    def come(self):
        """Make a connection."""
        if self.way == "inet":
            return Inet(self)
        if self.way == "socket":
            made = OneSocket(self.runtime, "alice", {})
            self.addCleanup(made.close)
            self.addCleanup(made.conversation.close)
            made.wait()
            return made
        return self.connect(door="fifo").open()

    def assertGivenUp(self, made, why):
        """It ends with one line that says *why*, and status 3."""
        self.assertEqual(b"lp-serve: " + why + b"\n", read_line(made.stderr))
        self.assertEqual(["exit", "3"], made.end())
        self.assertEqual(b"", read_line(made.stderr))
        with open(os.path.join(self.home, "breezy", "brz.log"), "rb") as log:
            text = log.read()
        self.assertContainsString(text, why)

    def paced(self, seconds, step):
        """Call *step* for some *seconds*, ten times in each; if it can be kept up.

        :returns: whether no two calls were more than half a second apart.
        """
        last = time.monotonic()
        end = last + seconds
        while last < end:
            step()
            # There is nothing to be waited for but the time.
            select.select([], [], [], 0.1)
            now = time.monotonic()
            if now - last > 0.5:
                return False
            last = now
        return True


class TestSilent(PatienceCase):
    """FAULT 49: a worker does not wait for ever for the rest of a request."""

    scenarios = WAYS

    def test_silent(self):
        """The client stops anywhere in a request, but not between two."""
        self.start(request_timeout=0.3)
        idle = self.come()
        made = [self.come() for _ in BEGINNINGS]
        for each, beginning in zip(made, BEGINNINGS):
            os.write(each.stdin, beginning)
        for each in made:
            self.assertGivenUp(each, SILENT % 0.3)
        self.assertEqual([], os.listdir(self.root))
        for _ in range(2):
            os.write(idle.stdin, b"hello\n")
            self.assertEqual(HELLO, read_line(idle.stdout))
            silent = select.select([idle.stdout, idle.stderr], [], [], 1)[0]
            self.assertEqual([], silent)
        os.write(idle.stdin, b"hello\nh")
        self.assertEqual(HELLO, read_line(idle.stdout))
        self.assertGivenUp(idle, SILENT % 0.3)

    def test_slow(self):
        """A client that sends a byte now and then is waited for."""
        self.start(request_timeout=1)

        def kept_up():
            request = b"get\x01/%s\n" % (b"x" * 25)
            made = self.come()
            bytes_left = [request[i : i + 1] for i in range(len(request))]
            if not self.paced(2, lambda: os.write(made.stdin, bytes_left.pop(0))):
                return False
            os.write(made.stdin, b"".join(bytes_left))
            self.assertStartsWith(read_line(made.stdout), b"NoSuchFile\x01")
            return True

        wait_until(kept_up, "this test is not slow itself")


class TestNever(PatienceCase):
    """With request_timeout=0 there is no such limit."""

    way = "inet"

    def test_never(self):
        self.start(request_timeout=0)
        made = self.come()
        os.write(made.stdin, b"h")
        self.assertEqual([], select.select([made.stdout, made.stderr], [], [], 1)[0])
        os.write(made.stdin, b"ello\n")
        self.assertEqual(HELLO, read_line(made.stdout))


class TestDeaf(PatienceCase):
    """FAULT 49: a worker does not wait for ever for a client to read."""

    scenarios = WAYS

    def setUp(self):
        super().setUp()
        with open(os.path.join(self.root, "big"), "wb") as file:
            file.write(BIG)

    def ask_big(self):
        made = self.come()
        os.write(made.stdin, b"get\x01/big\n")
        return made

    def test_deaf(self):
        """The client reads nothing of one long answer, or of many short ones."""
        self.start(request_timeout=0.4)
        self.assertGivenUp(self.ask_big(), DEAF % 0.4)
        made = self.come()
        os.set_blocking(made.stdin, False)

        def full():
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                os.write(made.stdin, b"hello\n" * 1000)
            return select.select([made.stderr], [], [], 0)[0]

        wait_until(full, "it is given up")
        self.assertGivenUp(made, DEAF % 0.4)

    def test_slow(self):
        """A client that reads a little now and then is waited for."""
        self.start(request_timeout=1)
        # The kernel does not tell the writer of a socket of less than this.
        count = 1 << 14 if self.way == "socket" else 1

        def kept_up():
            made = self.ask_big()
            got = [read_line(made.stdout), read_line(made.stdout)]
            self.assertEqual([b"ok\n", b"%d\n" % len(BIG)], got)
            data = []
            if not self.paced(2, lambda: data.append(os.read(made.stdout, count))):
                return False
            wanted = len(BIG) + len(b"done\n")
            while (left := wanted - sum(map(len, data))) > 0:
                data.append(os.read(made.stdout, left))
            self.assertTrue(b"".join(data) == BIG + b"done\n", "nothing is lost")
            os.write(made.stdin, b"hello\n")
            self.assertEqual(HELLO, read_line(made.stdout))
            return True

        wait_until(kept_up, "this test is not slow itself")


class FullStderr(SocketConnection):
    """Its standard error is a full pipe that nobody reads."""

    talk = socketconversation.SocketConversation

    def ask(self, words, deadline):
        stdin, self.stdin = os.pipe()
        self.stdout, stdout = os.pipe()
        self.stderr, stderr = os.pipe()
        os.set_blocking(stderr, False)
        try:
            while True:
                os.write(stderr, b"x" * 4096)
        except BlockingIOError:
            pass
        os.set_blocking(stderr, True)
        self.conversation.send(words, deadline, (stdin, stdout, stderr))
        for each in (stdin, stdout, stderr):
            os.close(each)


#: Says a lot where nobody listens, in an answer.
CHATTY = """
import sys
from breezy.bzr.smart import request

class Chat(request.SmartServerRequest):
    def do(self):
        for _ in range(100):
            print("x" * 10000)
        return request.SuccessfulSmartServerResponse((b"said",))

request.request_handlers.register(b"chat", Chat, info="read")
"""


class TestFullStderr(PatienceCase):
    """FAULT 49: a worker does not wait for ever for room in standard error."""

    way = "pipes"

    def come(self):
        made = FullStderr(self.runtime, "alice", {})
        self.addCleanup(made.close)
        self.addCleanup(made.conversation.close)
        made.wait()
        return made

    def test_end(self):
        """The worker ends although it cannot say why."""
        self.start(request_timeout=0.3)
        made = self.come()
        os.write(made.stdin, b"h")
        self.assertEqual(["exit", "3"], made.end())

    def test_answer(self):
        """What a plug-in prints is dropped, and the connection goes on."""
        self.add_plugin("chatty", CHATTY)
        self.start(request_timeout=0.3)
        made = self.come()
        for _ in range(2):
            os.write(made.stdin, b"chat\n")
            self.assertEqual(b"said\n", read_line(made.stdout))
