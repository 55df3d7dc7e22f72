# SPDX-License-Identifier: GPL-2.0-or-later

"""Faults at the socket of a real service; after each nothing may be left.

``LPSERVE_SOCKET_SEED`` repeats the rubbish of a run.
"""

import contextlib
import os
import random
import resource
import select
import signal
import socket

from ....lpserve.client import conversation
from ....lpserve.client.socketconversation import SocketConversation
from ...harness import DEADLINE, HELLO, descriptors_of, read_line, wait_until
from ..spawning.socketcase import BUSY_HOUSE, Link, SocketTestCase
from .test_fuzz import rubbish

SEED = int(os.environ.get("LPSERVE_SOCKET_SEED", random.randrange(1 << 32)))
LINES = 1000
_DONTWAIT = socket.MSG_DONTWAIT

#: A plug-in with which a zygote does not become one while nobody writes to a FIFO.
LATE_ZYGOTE = """
import os, sys

def posix_spawn(*words, file_actions, real=os.posix_spawn, **keywords):
    if os.path.exists(os.environ["GATE"]):
        late = os.POSIX_SPAWN_OPEN, 0, os.environ["GATE"], os.O_RDONLY, 0
        file_actions = [late, *file_actions]
    return real(*words, file_actions=file_actions, **keywords)

if "--fork-server" in sys.argv:
    os.posix_spawn = posix_spawn
"""


class TestDescriptors(SocketTestCase):
    def test_of_no_use(self):
        """FAULT 3: missing, too many, not open, not connected: none is kept."""
        self.start_service()
        before = self.rest()
        ours, theirs = socket.socketpair()
        other, peer = socket.socketpair()
        peer.close()
        listening = socket.socket()
        listening.listen()
        read_only, write_only = os.pipe()
        path = os.open(self.root, os.O_PATH)
        good = theirs.fileno()
        with ours, theirs, other, listening, socket.socket(socket.AF_UNIX) as new:
            bad = [
                *([good] * number for number in (0, 1, 2, 4, 5, 10, 253)),
                *([each.fileno(), good, good] for each in (other, listening, new)),
                *([good, good, each.fileno()] for each in (other, listening, new)),
                [write_only, good, good],
                [good, read_only, good],
                [good, good, read_only],
                [path, good, good],
                [good, path, good],
            ]
            link = self.link()
            for descriptors in bad:
                link.send(b"spawn alice\n", *descriptors)
                answer = link.answer()
                self.assertEqual(["error", "bad-request"], answer[:2], descriptors)
                link.send(b"status\n", *descriptors)
                expected = "error" if descriptors else "ok"
                self.assertEqual(expected, link.answer()[0])
                # One that nobody hears of either.
                half = self.link()
                half.send(b"spawn alice", *descriptors)
                half.close()
            wait_until(
                lambda: (
                    not self.of_service(
                        good, read_only, write_only, path, listening.fileno()
                    )
                ),
                "all are closed",
            )
            self.assertEqual(0, self.status()["totals"]["spawned"])
            # The connection is as good as ever.
            link.send(b"spawn alice\n", good, good, good)
            self.assertEqual("ok", link.answer()[0])
            ours.sendall(b"hello\n")
            self.assertEqual(HELLO, read_line(ours.fileno()))
            theirs.close()
            ours.close()
            self.assertEqual([["exit", "0"]], link.end())
        for descriptor in (read_only, write_only, path):
            os.close(descriptor)
        self.assertNothingGone(before)

    def test_none_left(self):
        """FAULT 3: the service can open no more: whoever waits is served later."""
        self.configure(spare_workers=1, max_spare_workers=1)
        self.start_service()
        before = self.rest(1)
        pid = self.service.pid
        soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        ready = self.link()
        self.assertEqual("ok", ready.ask(b"hello")[0])
        used = descriptors_of(pid)
        for free in range(3):
            room = [n for n in range(len(used) + 9) if n not in used][free]
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (room, hard))
            with open(os.devnull, "r+b") as null:
                ready.send(b"spawn alice\n", *[null.fileno()] * 3)
                self.assertEqual(["error", "failed"], ready.answer()[:2], free)
        resource.prlimit(
            pid, resource.RLIMIT_NOFILE, (min(set(range(99)) - set(used)), hard)
        )
        links = []
        for _ in range(5):
            links.append(self.link())
            links[-1].send(b"hello\n")
        # Who has no request makes room for those who come.
        self.assertEqual(["error", "busy"], ready.answer()[:2])
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
        for link in links:
            self.assertIn(link.answer()[0], ("ok", "error"))
            link.close()
        ready.close()
        self.assertServed()
        self.rest(1, before)


class TestLeaving(SocketTestCase):
    """FAULT 12: the client goes, at every moment and in every way."""

    def test_every_moment(self):
        self.start_service()
        before = self.rest()
        processes = len(self.processes())
        for number in range(len(b"spawn alice\n") + 1):
            link = self.link()
            link.request(upto=number) if number else None
            link.close()
        pids = []
        for ways in (("socket",), ("stdio",), ("socket", "stdio"), ("stdio", "socket")):
            for written in (b"", b"hel", b"hello\n", b"hello\n" * 3, b"\xff" * 9):
                link = self.link().spawn()
                os.write(link.stdin, written)
                if written == b"hello\n":
                    self.assertEqual(HELLO, read_line(link.stdout))
                for way in ways:
                    (link.socket.close if way == "socket" else link.close_stdio)()
                pids.append((link, written))
        # Of half a request nothing is to be finished, nor is there an end to it.
        for link, _ in pids:
            link.close_stdio()
        ends = {self.wait_for_end(link.pid) for link, _ in pids}
        # A worker that has no handler yet is ended by the signal itself.
        self.assertEqual(set(), ends - {"exit 0", "exit 3", "signal 1"})
        # And right at the end.
        for _ in range(10):
            link = self.link().spawn()
            link.close_stdio()
            link.close()
        status = self.assertNothingGone(before)
        self.assertEqual(0, status["workers"]["busy"])
        self.assertServed()
        wait_until(lambda: len(self.processes()) == processes, "the same processes")
        self.check_twice()
        self.assertNothingGone(before)

    def check_twice(self):
        """A second SIGHUP, to a worker or the service, is no other."""
        link = self.link().spawn()
        self.assertEqual(HELLO, link.hello())
        for _ in range(2):
            with contextlib.suppress(ProcessLookupError):  # it ended with the first
                os.kill(link.pid, signal.SIGHUP)
        link.socket.close()
        self.assertEqual("exit 0", self.wait_for_end(link.pid))
        kept = self.link().spawn()
        for _ in range(2):
            self.service.send_signal(signal.SIGHUP)
        # The kernel may make one of both.
        wait_until(lambda: self.status()["generation"] > 1, "a new zygote")
        self.assertEqual(HELLO, kept.hello())
        self.assertEqual([["exit", "0"]], kept.end())


class TestKilledAsItStartsAZygote(SocketTestCase):
    """Until that is one, it has the socket of the killed service open."""

    def test_client(self):
        """It gets in, to nobody; and is told so as soon as that is known."""
        gate = os.path.join(self.test_dir, "gate")
        self.add_plugin("late", LATE_ZYGOTE)
        self.start_service(GATE=gate)
        self.rest()
        os.mkfifo(gate)
        os.kill(self.status()["zygote"], signal.SIGKILL)

        def starting():
            commands = self.processes().values()
            return sum("--fork-server" in command for command in commands) == 2

        wait_until(starting, "a process that is to become a zygote")
        self.kill_service()
        link = self.link()
        link.request()
        with open(gate, "w"):
            pass
        self.assertEqual([], link.answer())
        self.wait_until_refused()
        self.remove_doors()


class TestOthers(SocketTestCase):
    """What some do to the socket is nothing to the others."""

    def start_writer(self, number):
        """A process that sends rubbish over many connections; its pid."""
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                signal.alarm(600)
                self.write_rubbish(random.Random(f"{SEED} {number}"))
                status = 0
            finally:
                os._exit(status)
        return pid

    def write_rubbish(self, rng):
        """Lines, and pieces of some, with descriptors or none, now and then read."""
        null = os.open(os.devnull, os.O_RDWR)
        link = Link(self.runtime)
        for data in rubbish(rng, LINES):
            attached = [null] * rng.choice((0, 0, 0, 0, 1, 3, 3, 9))
            # It takes no more while nobody reads its answers.
            readable, writable, _ = select.select([link.socket], [link.socket], ())
            try:
                if writable:
                    socket.send_fds(link.socket, [data], attached, _DONTWAIT)
                over = readable and not link.socket.recv(65536)
            except BlockingIOError:
                over = False
            except ConnectionError:
                over = True
            if over or rng.random() < 0.05:
                link.close()
                link = Link(self.runtime)
        link.close()

    def test_rubbish(self):
        """FAULT 11, FAULT 12, FAULT 13."""
        self.start_service()
        before = self.rest()
        hello = conversation.ask(self.runtime, ["hello"], door=SocketConversation)
        writers = [self.start_writer(number) for number in range(2)]
        served = 0
        while writers:
            self.assertServed("bob")
            for door in (SocketConversation, conversation.Conversation):
                answer = conversation.ask(self.runtime, ["hello"], door=door)
                self.assertEqual(hello, answer)
            served += 1
            for pid in list(writers):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    self.assertEqual(0, status, f"seed {SEED}")
                    writers.remove(pid)
        # There are as few spare workers again when there is a new zygote.
        self.settled_status()
        self.assertEqual(["ok"], self.ask("reload"))
        status = self.assertNothingGone(before)
        self.assertNotEqual(0, status["refused"]["bad-request"])
        self.assertTrue(status["totals"]["ended"] >= served)


class TestKeepingHouse(SocketTestCase):
    """What nobody tells the service of."""

    def setUp(self):
        super().setUp()
        self.add_plugin("busy_house", BUSY_HOUSE)
        self.path = os.path.join(self.runtime, "socket")

    def test_idle(self):
        """Hundreds that say nothing, or half a word; then the socket is removed."""
        self.start_service()
        before = self.rest()
        kept = self.link().spawn()
        links = [self.link() for _ in range(300)]
        for link in links[::2]:
            link.send(b"spawn alice env.LANG")
        self.assertServed()
        for link in links:
            answer = link.answer()
            self.assertEqual(["error", "bad-request"], answer[:2])
            self.assertContainsString(answer[2], "no complete request")
            self.assertEqual([], link.answer())
        self.assertEqual(HELLO, kept.hello())
        self.assertEqual([["exit", "0"]], kept.end())
        self.assertNothingGone(before)
        kept = self.link().spawn()
        os.unlink(self.path)
        self.wait_for_log("/socket was removed or replaced: stopping")
        self.assertEqual(HELLO, kept.hello())
        self.assertEqual([["exit", "0"]], kept.end())
        self.assertEqual(3, self.service.wait(DEADLINE))

    def test_replaced(self):
        """FAULT 17: what is in its place stays; of a killed one nothing does."""
        self.start_service()
        self.kill_service()
        self.assertRaises(ConnectionRefusedError, Link, self.runtime)
        self.assertRaises(conversation.NoService, SocketConversation, self.runtime)
        self.start_service()
        self.assertServed()
        os.rename(self.path, self.path + ".old")
        with open(self.path, "w"):
            pass
        self.wait_for_log("/socket was removed or replaced: stopping")
        self.assertEqual(3, self.service.wait(DEADLINE))
        self.assertEqual(["socket"], self.paths_left())
        self.remove_doors()
