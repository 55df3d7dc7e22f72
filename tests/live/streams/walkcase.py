# SPDX-License-Identifier: GPL-2.0-or-later

"""A random walk: whatever happens, what arrives is what ``brz serve --inet`` sends.

Repositories are changed in all the ways there are. After each change, or during it,
several clients ask a service for streams at the same time, while workers are killed or
stopped, clients hang up or stall, and the kept streams are removed, cut, or cannot be
written. LPSERVE_STREAM_SEED repeats a walk, as far as that can be.
"""

import contextlib
import hashlib
import os
import random
import re
import signal
import sys
import threading
import time
from collections import Counter, deque

from breezy import errors
from breezy.bzr import pack

from ....lpserve.streams.keptfile import HEADER, KeptFile
from ...arriving import arrived
from ...harness import wait_until
from ..warm.walkcase import COLD_LIFE
from ..warm.warmcase import comparable
from .walkchanges import ACTIONS, StreamChanges
from .walkclients import STILL, Client, stream_of

#: A plug-in. Makers are slow, so that they can be disturbed; one that is stopped is
#: soon taken for one; and files say where the disk is full, or cannot be written.
MISCHIEF = """
import errno, os, time
from breezy.plugins.lpserve.lpserve.streams import keptfile, progress

progress._STILL = 0.1
New = keptfile.NewFile
begin, write = New.__init__, New._write

def slow_begin(self, *args):
    if os.path.exists(PLACE + "read-only"):
        raise OSError(errno.EROFS, "read-only")
    begin(self, *args)

def slow_write(self, data, start):
    if start:
        time.sleep((0, 0, 0.001, 0.003, 0.01)[os.getpid() % 5])
    try:
        if start + len(data) > os.stat(PLACE + "full").st_size:
            write(self, data[: len(data) // 2], start)
            raise OSError(errno.ENOSPC, "full")
    except FileNotFoundError:
        pass
    write(self, data, start)

New.__init__, New._write = slow_begin, slow_write
"""
#: What is done to clients, workers and the directory.
MISCHIEFS = (
    *("none",) * 8,
    *("kill maker",) * 4,
    *("kill follower",) * 2,
    *("kill any", "stop", "stop", "hang up", "stall", "empty", "cut"),
    *("full", "read-only"),
)
#: Without these the walk has tried nothing.
NEEDED = ("kill maker", "hang up", "stall", "empty", "full", "read-only")
#: Those that need somebody who makes a stream.
AT_MAKERS = ("kill maker", "kill follower", "stop")
#: A client that followed a maker which was killed while the repository was packed.
OTHER_BYTES = (b"error", b"breezy.plugins.lpserve.lpserve.streams.kept.OtherBytes")
#: After which of them the connection of a client may fail.
_FATAL = ("kill maker", "kill follower", "kill any", "hang up")
_temporary = re.compile(r"[0-9a-f]{64}\.([0-9]+)\.tmp").fullmatch
_BEGINNING = pack.ContainerSerialiser().begin()


class StreamWalkCase(StreamChanges):
    """Does the walk, of `steps` steps."""

    steps = 60
    warm = 4

    def setUp(self):
        super().setUp()
        seed = int(os.environ.get("LPSERVE_STREAM_SEED") or random.randrange(1 << 32))
        self.seed, self.random = seed, random.Random(seed)
        self.cache = os.path.join(self.home, "lpserve", "streams")
        self.markers = os.path.join(self.test_dir, "disk-")
        #: Digests of all that was right to send, and of what was sent before.
        self.right = {}
        self.seen = set()
        self.cut = set()
        self.recent = deque(maxlen=6)
        self.deck = []
        self._cold = None
        self._cold_left = 0

    def walk(self):
        """Do it, and report what was done."""
        print(f"stream walk: seed {self.seed}", file=sys.stderr)
        # Whoever changes a branch whose packs are cleared may leave it locked.
        self.thisFailsStrictLockCheck()
        self.done, self.mischief = Counter(), Counter()
        self.answers = self.streams = self.failed = 0
        self.make_branches()
        self.add_plugin("mischief", MISCHIEF.replace("PLACE", repr(self.markers)))
        self.start_warm(
            stream_cache_occurrences=self.random.choice((1, 2)),
            stream_cache_size=self.random.choice((1, 4, 1024)),
            max_streams_at_once=self.random.choice((0, 1, 2)),
        )
        descriptors = self.rest()
        try:
            for number in range(self.steps):
                self.step(f"seed {self.seed}, step {number}")
        finally:
            self.end_cold()
        self.rest()
        self.check_directory()
        wait_until(lambda: not self.temporary(), "no temporary file is left")
        for name in os.listdir(self.cache):
            self.check_kept(name)
        status = self.status()
        found = status["streams"]
        counts = {name: found[name] for name in ("misses", "hits", "followed")}
        print(
            f"stream walk: {self.steps} steps, {self.answers} answers, {self.streams} "
            f"of them streams, {self.failed} connections that failed, {counts}, "
            f"{len(self.seen)} kept, {dict(self.mischief)}, {dict(self.done)}",
            file=sys.stderr,
        )
        self.assertEqual(0, status["totals"]["faults"])
        self.assertEqual((0, 0), (found["making"], found["waiting"]))
        self.assertLessEqual(status["descriptors"], descriptors + self.warm)
        self.assertTrue(all(counts.values()), counts)
        missing = [each for each in NEEDED if not self.mischief[each]]
        self.assertEqual([], missing)

    # -- one step ------------------------------------------------------------------

    def step(self, where):
        """Change something, and compare what clients get with what is right."""
        action, name = self.random.choice(ACTIONS), self.random.choice(self.names)
        self.change(action, name)
        if not self.deck:
            self.deck = self.random.sample(MISCHIEFS, len(MISCHIEFS))
        mischief = self.deck.pop()
        at_makers = mischief in AT_MAKERS
        questions = {
            self.ask_again(at_makers) for _ in range(self.random.choice((1, 1, 2)))
        }
        during = self.random.choice((*("",) * 7, "pack", "add_one"))
        before = {each: self.right_answer(each) for each in questions}
        others = threading.Event()
        asked = [*questions] * (3 if at_makers or self.random.random() < 0.4 else 1)
        clients = [
            Client(self, each, self.random.choice(("alice", "bob", "carol")), others)
            for each in asked
        ]
        self.prepare(mischief, clients)
        for each in clients:
            each.start()
        try:
            if during:
                self.change(during, name)
            self.disturb(mischief, clients)
            for each in clients:
                if not each.disturbed:
                    each.finish()
        finally:
            others.set()
            for each in clients:
                each.finish()
        for marker in ("full", "read-only"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.markers + marker)
        what = f"{where}, {action} {name}, {mischief}, {during}"
        for question in questions:
            expected = [before[question]]
            if during:
                expected.append(self.right_answer(question))
            for each in clients:
                if each.question == question:
                    self.check(each, expected, what, during)
        self.check_directory()

    def change(self, action, name):
        """Change something, if that is possible."""
        try:
            getattr(self, action)(name)
            self.done[action] += 1
        except errors.BzrError:
            self.done["failed"] += 1

    def add_one(self, name):
        """One revision, so that there is no state between before and after."""
        self.add(name, 1)

    def ask_again(self, new):
        """A *new* question, or one that was asked before."""
        if new or not self.recent or self.random.random() < 0.35:
            self.recent.append(self.question())
            return self.recent[-1]
        return self.random.choice(self.recent)

    def right_answer(self, question):
        """What ``brz serve --inet`` answers, as `content` has it."""
        if not self._cold_left:
            self.end_cold()
            self._cold, self._cold_process = self.cold_client()
            self._cold_left = COLD_LIFE
        self._cold_left -= 1
        found = content(stream_of(self._cold, *question))
        if isinstance(found, dict):
            self.right.setdefault(digest(found), question)
        return found

    def end_cold(self):
        """End the present ``brz serve --inet``."""
        if self._cold is not None:
            self._cold.close()
            self.assertEqual(0, self._cold_process.wait())
            self._cold = None
            self._cold_left = 0

    def check(self, client, expected, what, during):
        """What has arrived at a client is right, or it was disturbed."""
        if client.answer is None:
            if client.disturbed in _FATAL:
                self.failed += 1
                return
            self.fail(f"{what}: {client.question}: {client.failure!r}")
        self.answers += 1
        found = content(client.answer)
        self.streams += isinstance(found, dict)
        torn = isinstance(found, tuple) and found[:2] == OTHER_BYTES
        if torn and during and client.others_killed:
            # What the dead maker had begun nobody can continue.
            self.failed += 1
        elif found not in expected:
            self.fail(
                f"{what}: {client.question}:\n{brief(found)}\n"
                f"not: {[brief(each) for each in expected]}"
            )

    # -- mischief --------------------------------------------------------------------

    def prepare(self, mischief, clients):
        """What is done before the clients ask."""
        client = self.random.choice(clients)
        if mischief in ("hang up", "stall"):
            client.behave(mischief, self.random.choice((1, 300, 2000, 9000)))
            self.mischief[mischief] += 1
        elif mischief in ("full", "read-only"):
            with open(self.markers + mischief, "wb") as file:
                file.truncate(self.random.choice((100, 500, 3000, 30000)))
            self.mischief[mischief] += 1
        elif mischief == "cut":
            for name in self.kept():
                path = os.path.join(self.cache, name)
                os.truncate(path, self.random.randrange(os.stat(path).st_size))
                self.cut.add(name)
                self.mischief[mischief] += 1

    def disturb(self, mischief, clients):
        """What is done while they wait for their answers."""
        if mischief == "empty":
            time.sleep(self.random.random() / 50)
            for name in os.listdir(self.cache):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(self.cache, name))
            self.mischief[mischief] += 1
        victim = self.victim(mischief, clients)
        if victim is None:
            return
        with contextlib.suppress(ProcessLookupError):
            for each in clients:
                each.others_killed = True
            if mischief == "stop":
                os.kill(victim.pid, signal.SIGSTOP)
                end = time.monotonic() + STILL
                while time.monotonic() < end and any(
                    each.is_alive() for each in clients if each is not victim
                ):
                    time.sleep(0.005)
                os.kill(victim.pid, signal.SIGCONT)
            else:
                victim.disturbed = mischief
                time.sleep(self.random.random() / 50)
                os.kill(victim.pid, signal.SIGKILL)
            self.mischief[mischief] += 1

    def victim(self, mischief, clients):
        """The client whose worker something is done to, or None."""
        if mischief == "kill any":
            return self.random.choice(clients)
        if mischief not in AT_MAKERS:
            return None
        makers = []
        while not makers and any(each.is_alive() for each in clients):
            makers = [each for each in clients if each.pid in self.temporary()]
        if makers and mischief == "kill follower":
            makers = [each for each in clients if each not in makers]
        return self.random.choice(makers) if makers else None

    # -- the directory -----------------------------------------------------------------

    def temporary(self):
        """The processes that are making a stream."""
        found = map(_temporary, os.listdir(self.cache))
        return [int(each[1]) for each in found if each]

    def kept(self):
        """The names of the kept streams."""
        return [each for each in sorted(os.listdir(self.cache)) if len(each) == 64]

    def check_directory(self):
        """What was kept since the last look is right."""
        for name in self.kept():
            if name not in self.seen:
                self.check_kept(name)

    def check_kept(self, name):
        """A kept stream is what was once right to send."""
        try:
            file = KeptFile(self.cache, name)
        except FileNotFoundError:
            return
        except OSError:
            self.assertIn(name, self.cut)
            return
        with contextlib.closing(file):
            data = file.read(HEADER, file.end - HEADER)
        chunks, position = [_BEGINNING], 0
        while position < len(data):
            self.assertEqual(b"b", data[position : position + 1])
            end = (
                position + 5 + int.from_bytes(data[position + 1 : position + 5], "big")
            )
            chunks.append(data[position + 5 : end])
            position = end
        self.assertEqual(len(data), position)
        self.assertIn(digest(arrived(b"".join(chunks))), self.right, name)
        self.seen.add(name)


#: What differs between two errors: what is absent is named in no order.
_ABSENT = re.compile(rb"(Absent factory for|NoSuchRevision).*", re.DOTALL)


def content(answer):
    """What has arrived, or the words of an error that two servers send alike."""
    if isinstance(answer, bytes):
        return arrived(answer)
    words, _ = comparable((answer, None))
    return tuple(
        _ABSENT.sub(rb"\1", each) if isinstance(each, bytes) else each for each in words
    )


def digest(found):
    """A short name for what has arrived."""
    in_order = {kind: sorted(each.items()) for kind, each in sorted(found.items())}
    return hashlib.sha256(repr(in_order).encode()).hexdigest()


def brief(found):
    """*found* without texts, for a message."""
    if isinstance(found, dict):
        return {kind: sorted(each) for kind, each in found.items()}
    return found
