# SPDX-License-Identifier: GPL-2.0-or-later

"""The client's end of the socket, with a service that the test plays."""

import os
import pwd
import signal
import socket
import stat
import time

from breezy.tests import TestCaseInTempDir

from ...lpserve import system
from ...lpserve.client import relay
from ...lpserve.client.conversation import ClientError, NoService, ask
from ...lpserve.client.socketconversation import SocketConversation
from ...lpserve.location import socket_address
from ..forked import in_child
from ..harness import DEADLINE

NOBODY = 65534


def soon():
    """A deadline that is not reached unless something is wrong."""
    return time.monotonic() + DEADLINE


class SocketConversationTestCase(TestCaseInTempDir):
    """With a directory, in which `listen` makes a socket; nothing stays open."""

    service_user = None

    def setUp(self):
        super().setUp()
        self.runtime = os.path.join(self.test_dir, "run")
        os.mkdir(self.runtime, 0o700)
        self.addCleanup(self.assertNothingOpen, system.open_descriptors())

    def assertNothingOpen(self, before):
        self.assertEqual(before, system.open_descriptors())

    def listen(self, backlog=8):
        self.listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(self.listener.close)
        address, directory = socket_address(os.path.join(self.runtime, "socket"))
        self.listener.bind(address)
        if directory >= 0:
            os.close(directory)
        self.listener.listen(backlog)

    def open(self, signals=None):
        """A conversation that has begun, and the service's end of it."""
        talk = SocketConversation(self.runtime, signals, self.service_user)
        self.addCleanup(talk.close)
        link = self.listener.accept()[0]
        self.addCleanup(link.close)
        return talk, link

    def asked(self, *stdio, signals=None):
        """The same, and the request has been sent."""
        talk, link = self.open(signals)
        talk.send(["spawn", "alice"], soon(), stdio)
        return talk, link

    def assertNoService(self, *texts):
        error = self.assertRaises(
            NoService, SocketConversation, self.runtime, None, self.service_user
        )
        for text in texts:
            self.assertContainsString(str(error), text)


class TestNoService(SocketConversationTestCase):
    """FAULT 15: which services it does not ask, and why."""

    def test_nobody_listens(self):
        self.listen()
        self.listener.close()
        self.assertNoService("(Connection refused)")
        path = os.path.join(self.runtime, "socket")
        os.unlink(path)
        with open(path, "w"):
            pass
        self.assertNoService("(Connection refused)")
        os.unlink(path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
            made.bind(os.path.relpath(path))
        self.assertNoService("no service at ")
        self.runtime = "/dev/null"
        self.assertNoService("no service at /dev/null (Not a directory)")

    def test_writable_by_others(self):
        self.listen()
        for mode in (0o770, 0o707, 0o722):
            os.chmod(self.runtime, mode)
            self.assertNoService("is writable by others", f"{mode:04o}")
        os.chmod(self.runtime, 0o711)
        self.open()

    def test_owner(self):
        """FAULT 44: whoever listens is trusted, and owns the directory."""
        if os.geteuid() != 0:
            self.listen()
            self.overrideAttr(os, "stat", lambda path: _somebody_elses(path))
            self.assertNoService("is owned by uid ", f"not by uid {os.geteuid()}")
            return
        self.listen()
        os.chown(self.runtime, NOBODY, NOBODY)
        self.assertNoService(f"is owned by uid {NOBODY}, not by uid 0")
        # SO_PEERCRED tells who has called listen(2).
        os.seteuid(NOBODY)
        try:
            self.listener.listen()
        finally:
            os.seteuid(0)
        self.assertNoService(
            f"the service at {self.runtime} is run by uid {NOBODY}: not ours, root's "
            "or lpserve.service_user's"
        )
        for name in ("1", "nobody-of-that-name", "", f"{NOBODY}x"):
            self.service_user = name
            self.assertNoService(f"is run by uid {NOBODY}: not ours")
        for name in (str(NOBODY), pwd.getpwuid(NOBODY).pw_name):
            self.service_user = name
            self.open()
        os.chown(self.runtime, 0, 0)
        self.assertNoService(f"is owned by uid 0, not by uid {NOBODY}")


_real_stat = os.stat


def _somebody_elses(path):
    found = list(_real_stat(path))
    found[stat.ST_UID] += 1
    return os.stat_result(found)


class TestSending(SocketConversationTestCase):
    def test_too_long(self):
        self.listen()
        talk, _ = self.open()
        for word in ("x" * 4096, "a\nb", "\udc80"):
            error = self.assertRaises(ClientError, talk.send, ["spawn", word], soon())
            self.assertEqual(64, error.status)
            self.assertContainsString(str(error), "does not fit into a request")

    def test_answered_before_it_asked(self):
        """Who is not let in is told so at once, and the connection is closed."""
        self.listen()
        talk, link = self.open()
        link.sendall(b"error denied 'not you'\n")
        link.close()
        talk.send(["hello"], soon())
        self.assertEqual(["error", "denied", "not you"], talk.wait_answer(soon()))

    def fill(self):
        """Connect until nobody can any more; the connections."""
        self.listen(backlog=0)
        waiting = []
        address, directory = socket_address(os.path.join(self.runtime, "socket"))
        while True:
            waiting.append(socket.socket(socket.AF_UNIX))
            self.addCleanup(waiting[-1].close)
            waiting[-1].setblocking(False)
            try:
                waiting[-1].connect(address)
            except BlockingIOError:
                break
        if directory >= 0:
            os.close(directory)
        return waiting

    def test_service_ends_while_the_backlog_is_full(self):
        self.fill()
        talk = SocketConversation(self.runtime)
        self.addCleanup(talk.close)
        error = self.assertRaises(NoService, talk.send, ["hello"], time.monotonic())
        self.assertContainsString(str(error), "does not answer")
        self.listener.close()
        error = self.assertRaises(NoService, talk.send, ["hello"], soon())
        self.assertContainsString(str(error), "Connection refused")

    def test_signal_while_the_backlog_is_full(self):
        self.fill()

        def wait():
            talk = SocketConversation(self.runtime, relay.ForwardedSignals())
            os.kill(os.getpid(), signal.SIGTERM)
            try:
                talk.send(["hello"], soon())
            except ClientError as error:
                return error.status

        self.assertEqual(128 + signal.SIGTERM, in_child(wait))


class TestAnswers(SocketConversationTestCase):
    def setUp(self):
        super().setUp()
        self.listen()

    def test_several(self):
        talk, link = self.asked()
        self.assertIs(None, talk.read_answer())
        link.sendall(b"ok 1")
        self.assertIs(None, talk.read_answer())
        link.sendall(b"2 'a b'\nexit 0\n")
        self.assertEqual(["ok", "12", "a b"], talk.wait_answer(soon()))
        link.close()
        self.assertEqual(["exit", "0"], talk.wait_answer(soon()))
        self.assertRaises(NoService, talk.read_answer)

    def test_none(self):
        """The end is no answer, nor is half a line before it, nor a reset."""
        for data in (b"", b"ok 1"):
            talk, link = self.asked()
            link.recv(100)
            link.sendall(data)
            link.close()
            error = self.assertRaises(NoService, talk.wait_answer, soon())
            self.assertEqual(f"the service at {self.runtime} ended", str(error))
        talk, link = self.asked()
        link.close()  # with the request unread
        self.assertRaises(NoService, talk.wait_answer, soon())

    def test_too_late(self):
        """After the deadline the service can answer no more."""
        talk, link = self.asked()
        error = self.assertRaises(NoService, talk.wait_answer, time.monotonic())
        self.assertContainsString(str(error), "does not answer")
        self.assertRaises(BrokenPipeError, link.sendall, b"ok 1\n")

    def does_not_answer(self, *args):
        raise NoService("does not answer")

    def test_just_too_late(self):
        """An "ok" in the last moment: a worker may have our stdio."""
        talk, link = self.asked()
        link.sendall(b"ok 1\n")
        self.overrideAttr(talk, "_wait", self.does_not_answer)
        receive, self.calls = talk._receive, 0

        def late():
            self.calls += 1
            if self.calls == 1:
                raise BlockingIOError
            return receive()

        self.overrideAttr(talk, "_receive", late)
        error = self.assertRaises(ClientError, talk.wait_answer, soon())
        self.assertEqual(69, error.status)
        self.assertContainsString(str(error), "answered too late; try again")

    def test_error_too_late(self):
        """Then there is no worker."""
        talk, link = self.asked()
        self.overrideAttr(
            talk,
            "_wait",
            lambda *args: (
                link.sendall(b"error failed no\n"),
                self.does_not_answer(),
            ),
        )
        self.assertRaises(NoService, talk.wait_answer, soon())

    def test_signal(self):
        def wait():
            talk, _ = self.asked(signals=relay.ForwardedSignals())
            os.kill(os.getpid(), signal.SIGINT)
            try:
                talk.wait_answer(soon())
            except ClientError as error:
                return error.status

        self.assertEqual(128 + signal.SIGINT, in_child(wait))

    def test_ask(self):
        """Through either door."""
        answers = []

        def door(directory):
            talk, link = self.open()
            link.sendall(b"ok lpserve\n")
            self.addCleanup(lambda: answers.append(link.recv(100)))
            return talk

        self.assertEqual(["ok", "lpserve"], ask(self.runtime, ["hello"], door=door))

    def test_close(self):
        talk, link = self.asked()
        talk.close()
        talk.close()
        self.assertEqual((-1, -1), (talk.control, talk.reply))
        self.assertEqual(b"spawn alice\n", link.recv(100))
        self.assertEqual(b"", link.recv(100))
