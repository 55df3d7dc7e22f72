# SPDX-License-Identifier: GPL-2.0-or-later

"""Connections that need too much memory, and whom the OOM killer ends first."""

import os
import struct

from ...harness import HELLO, LiveTestCase, read_line, wait_until
from ...processes import title_of
from .test_bodies import MARKER, MIB, beginning, fake_ssh, write_all

#: Has a loader wait until it is killed: the sleep has no end that matters.
SLOW_LOADER = """
import time
from breezy.plugins.lpserve.lpserve.warm import loader as warmload
warmload.load = lambda path: time.sleep(1000)
"""
#: A verb that takes as much as it is told to.
HUNGRY = """
from breezy.bzr.smart import request

class Eat(request.SmartServerRequest):
    def do(self, mebibytes):
        return request.SuccessfulSmartServerResponse(
            (b"%d" % len(bytearray(int(mebibytes) << 20)),)
        )

class EatInAnswer(request.SmartServerRequest):
    def do(self, mebibytes):
        def pieces():
            yield b"piece"
            yield bytes(int(mebibytes) << 20)
        return request.SuccessfulSmartServerResponse((b"ok",), body_stream=pieces())

request.request_handlers.register(b"eat", Eat, info="read")
request.request_handlers.register(b"eat.answer", EatInAnswer, info="read")
"""
LINE = (
    b"lp-serve: this connection needs more memory than lpserve.worker_memory allows\n"
)


class TestWorkerMemory(LiveTestCase):
    def setUp(self):
        super().setUp()
        self.add_plugin("hungry", HUNGRY)

    def begin(self):
        self.made = self.connect().open()
        self.assertEqual(HELLO, self.made.hello())

    def send(self, data):
        write_all(self.made.stdin, data)

    def assertEnded(self):
        """The worker has ended with one line."""
        self.assertEqual(LINE, read_line(self.made.stderr))
        self.assertEqual(["exit", "3"], self.made.end())
        self.assertEqual(b"", read_line(self.made.stderr))

    def test_limit(self):
        """FAULT 59: a connection that needs too much memory ends, and no other."""
        self.configure(worker_memory=100)
        self.start_service()
        self.begin()
        self.send(beginning(b"eat", b"50") + b"e")
        self.assertEqual(MARKER, read_line(self.made.stdout))
        self.send(beginning(b"eat", b"150") + b"e")
        self.assertEnded()
        self.begin()
        self.send(beginning(b"eat.answer", b"150") + b"e")
        self.assertEnded()
        # A body that is announced takes no memory before it comes.
        self.begin()
        self.send(beginning(b"put", b"a", b"") + b"b" + struct.pack("!L", 1 << 31))
        piece = b"x" * MIB
        try:
            for _ in range(200):
                self.send(piece)
        except BrokenPipeError:
            pass
        else:
            self.fail("it takes what it is sent")
        self.assertEnded()
        self.assertEqual([], os.listdir(self.root))
        self.begin()
        self.made.close()
        self.assertEqual(["exit", "0"], self.made.end())
        self.assertEqual(0, self.status()["totals"]["faults"])

    def test_push(self):
        """The repository stays whole and unlocked, and takes what is smaller."""
        self.configure(worker_memory=48)
        here = os.path.join(self.root, "branch")
        place = os.path.join(self.test_dir, "local")
        self.run_brz("init", "-q", here)
        self.run_brz("init", "-q", place)
        with open(os.path.join(place, "big"), "wb") as file:
            file.write(os.urandom(30 * MIB))
        self.run_brz("add", "-q", os.path.join(place, "big"))
        self.run_brz("commit", "-q", "-m", "one", place, BRZ_EMAIL="a")
        ssh = fake_ssh(self.test_dir)
        self.start_service()
        push = self.brz("push", "-q", "--overwrite", "-d")
        done = self.run_program([*push, place, "bzr+ssh://host/branch"], BRZ_SSH=ssh)
        self.assertEqual(3, done.returncode, done.stderr)
        self.assertStartsWith(done.stderr, LINE)
        self.assertNotContainsString(done.stderr, b"Traceback")
        self.assertEqual(b"", self.run_brz("check", "-q", here).stdout)
        repository = os.path.join(here, ".bzr", "repository")
        self.assertEqual([], os.listdir(os.path.join(repository, "upload")))
        for control in (repository, os.path.join(here, ".bzr", "branch")):
            self.assertEqual([], os.listdir(os.path.join(control, "lock")))
        self.run_brz("init", "-q", place + "2")
        self.run_brz(
            "commit", "-q", "--unchanged", "-m", "one", place + "2", BRZ_EMAIL="a"
        )
        self.run_brz(
            "push", "-q", "-d", place + "2", "bzr+ssh://host/branch", BRZ_SSH=ssh
        )

    def test_inet(self):
        self.configure(worker_memory=100, directory=self.root)
        words = self.brz("lp-serve", "--inet", "alice")
        done = self.run_program(words, beginning(b"eat", b"150") + b"e")
        self.assertEqual((3, LINE), (done.returncode, done.stderr))

    def test_no_limit(self):
        self.start_service()
        self.begin()
        self.send(beginning(b"eat", b"300") + b"e")
        self.assertEqual(MARKER, read_line(self.made.stdout))


def score(pid):
    """What proc(5) calls oom_score_adj."""
    with open(f"/proc/{pid}/oom_score_adj") as file:
        return int(file.read())


class TestOomScore(LiveTestCase):
    """FAULT 59: the kernel ends workers and loaders rather than the service."""

    warm = 4

    def titled(self, title):
        """The processes that have it."""
        return [pid for pid in self.processes() if title_of(pid) == title]

    def check(self, own, expected):
        busy = self.connect()
        busy.open()
        busy.hello()
        loader = wait_until(lambda: self.titled("lp-loader"), "a loader")
        wait_until(lambda: score(loader[0]) == expected, "it is offered")
        wait_until(lambda: score(busy.pid) == expected, "it is offered")
        for pid in self.titled("lp-spare"):
            wait_until(lambda pid=pid: score(pid) == expected, "it is offered")
        # By its title it could also be a worker that was forked just now.
        for pid in (self.service.pid, self.status()["zygote"]):
            self.assertEqual(own, score(pid))

    def setUp(self):
        super().setUp()
        self.add_plugin("slow_loader", SLOW_LOADER)
        os.mkdir(os.path.join(self.root, "a"))
        self.configure(warm_preload=os.path.join(self.root, "a"))

    def test_raised(self):
        own = score("self")
        self.start_service()
        self.check(own, min(max(own, 0) + 500, 1000))
        self.stop_service()
        # It is relative to that of the service; the most is 1000.

        def dispensable():
            with open("/proc/self/oom_score_adj", "w") as file:
                file.write("700")

        self.start_service(popen={"preexec_fn": dispensable})
        self.check(700, 1000)
