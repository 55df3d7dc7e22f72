# SPDX-License-Identifier: GPL-2.0-or-later

"""Rubbish at the control FIFO of a service that others are using.

``LPSERVE_FUZZ_LINES`` says how many lines of it (20,000); ``LPSERVE_FUZZ_SEED``
repeats a run.
"""

import collections
import json
import os
import random
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator

from ...handmade import Connection
from ...harness import HELLO, LiveTestCase, read_line, wait_until

LINES = int(os.environ.get("LPSERVE_FUZZ_LINES", "20000"))
SEED = int(os.environ.get("LPSERVE_FUZZ_SEED", random.randrange(1 << 32)))
WRITERS = 4

#: What is cut short and spoilt. Nothing that would end the service or load a
#: zygote: those would be right to. Nobody is there to read the reply "nobody".
VALID = (
    b"hello",
    b"hello reply=fuzz",
    b"status",
    b"status reply=fuzz",
    b"spawn alice reply=nobody env.LANG=C",
    b"spawn alice",
    b"spawn '' reply=fuzz",
    b"spawn alice env.LD_PRELOAD=x reply=fuzz",
    b"spawn 'alice bob' env.LANG=\"C\" reply=fuzz",
    b"hello reply=../control",
)


def _random_bytes(rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(1, 200))


def _truncated(rng: random.Random) -> bytes:
    line = rng.choice(VALID)
    return line[: rng.randrange(1, len(line) + 1)]


def _overlong(rng: random.Random) -> bytes:
    return rng.choice(VALID) + b" " + b"x" * rng.randrange(4000, 9000)


def _with_nuls(rng: random.Random) -> bytes:
    line = bytearray(rng.choice(VALID))
    line[rng.randrange(len(line))] = 0
    return bytes(line)


def _not_utf8(rng: random.Random) -> bytes:
    line = rng.choice(VALID)
    where = rng.randrange(len(line))
    return line[:where] + rng.choice((b"\xff", b"\xc3", b"\xed\xa0\x80")) + line[where:]


def _quotes(rng: random.Random) -> bytes:
    return rng.choice(VALID) + rng.choice((b"'", b'"', b"\\", b" 'x' \"", b" '\\"))


def _doubled(rng: random.Random) -> bytes:
    return rng.choice(VALID) + rng.choice((b"", b" ", b"\r")) + rng.choice(VALID)


def _untouched(rng: random.Random) -> bytes:
    return rng.choice(VALID)


KINDS: tuple[Callable[[random.Random], bytes], ...] = (
    _random_bytes,
    _truncated,
    _overlong,
    _with_nuls,
    _not_utf8,
    _quotes,
    _doubled,
    _untouched,
)
#: Over-long lines are seldom: each is worth a hundred others in bytes.
WEIGHTS = (4, 8, 1, 4, 4, 4, 4, 4)


def rubbish(rng: random.Random, count: int) -> Iterator[bytes]:
    """What to write, a write at a time: *count* lines, not all with a newline."""
    while count > 0:
        several = min(count, rng.choice((1, 1, 1, 2, 20)))
        count -= several
        lines = [kind(rng) for kind in rng.choices(KINDS, WEIGHTS, k=several)]
        data = b"\n".join(lines)
        if b"shutdown" in data or b"reload" in data:
            continue
        if rng.random() < 0.8:
            data += b"\n"
        if rng.random() < 0.2:
            # In pieces, between which others write.
            where = rng.randrange(len(data))
            yield data[:where]
            data = data[where:]
        yield data


class TestFuzz(LiveTestCase):
    def start_writer(self, number: int, lines: int) -> int:
        """A process that writes rubbish; its pid."""
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                signal.alarm(600)
                control = os.open(os.path.join(self.runtime, "control"), os.O_WRONLY)
                for data in rubbish(random.Random(f"{SEED} {number}"), lines):
                    while data:
                        data = data[os.write(control, data) :]
                status = 0
            finally:
                os._exit(status)
        return pid

    def good_requests(self, kind: str, counts: collections.Counter) -> None:
        """One request of the real client; what becomes of it is counted."""
        try:
            if kind == "hello":
                right = self.ask("hello") == self.hello
            elif kind == "status":
                right = json.loads(self.ask("status")[1])["pid"] == self.service.pid
            elif kind == "bad":
                right = self.ask("hello", "you")[:2] == ["error", "bad-request"]
            else:
                right = self.whole_connection()
        except Exception as error:
            self.problems.append(f"lost {kind}: {error!r}")
            return
        counts[kind] += 1
        if not right:
            self.problems.append(f"wrong answer to {kind}")

    def whole_connection(self) -> bool:
        connection = Connection(self.runtime, "bob", {"LANG": "C"})
        try:
            connection.wait()
            answer = connection.open().hello()
            connection.close()
            return (answer, connection.end()) == (HELLO, ["exit", "0"])
        finally:
            connection.close()
            connection.conversation.close()

    def read_answers(self, reply: int, counts: collections.Counter) -> None:
        """Check what is answered to rubbish, until there is a line "over"."""
        while (line := read_line(reply, 600)) != b"over\n":
            try:
                kind = self.kind_of(shlex.split(line.decode()))
            except (ValueError, IndexError, KeyError):
                kind = "wrong"
            counts[kind] += 1
            if kind == "wrong":
                self.problems.append(f"wrong answer to rubbish: {line!r}")

    def kind_of(self, words: list[str]) -> str:
        """What an answer to rubbish is; "wrong" if it can be to nothing."""
        if words == self.hello:
            return "hello"
        if words[0] == "ok" and len(words) == 2:
            status = json.loads(words[1])
            return "status" if status["pid"] == self.service.pid else "wrong"
        if words[0] == "ok" and len(words) == 5 and os.path.exists(words[2]):
            # "spawn" of one and "alice reply=fuzz" of another are a request.
            os.kill(int(words[1]), signal.SIGKILL)
            return "spawn"
        if words[0] == "error" and len(words) == 3:
            return words[1] if words[1] in ("bad-request", "denied") else "wrong"
        return "killed" if words == ["signal", "9"] else "wrong"

    def test_rubbish(self):
        self.start_service()
        self.problems: list[str] = []
        self.hello = self.ask("hello")
        before = self.rest()
        processes = set(self.processes())
        path = os.path.join(self.runtime, "replies", "fuzz")
        os.mkfifo(path, 0o600)
        self.addCleanup(os.unlink, path)
        reply = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self.addCleanup(os.close, reply)
        begin = time.monotonic()
        # Before there is a second thread.
        writers = [self.start_writer(n, LINES // WRITERS) for n in range(WRITERS)]
        over = threading.Event()
        good: collections.Counter = collections.Counter()
        answers: collections.Counter = collections.Counter()

        def ask_until_over(kind: str) -> None:
            while not over.is_set():
                self.good_requests(kind, good)

        threads = [
            threading.Thread(target=ask_until_over, args=(kind,))
            for kind in ("hello", "status", "bad", "connection", "connection")
        ]
        reader = threading.Thread(target=self.read_answers, args=(reply, answers))
        for thread in (*threads, reader):
            thread.start()
        try:
            statuses = [os.waitpid(pid, 0)[1] for pid in writers]
        finally:
            over.set()
            for thread in threads:
                thread.join()
            # It has read all of the rubbish when it answers to this.
            self.settled_status()
            # Blocking: it may be full of answers that are still to be read.
            with open(path, "wb", buffering=0) as end:
                end.write(b"over\n")
            reader.join()
        seconds = time.monotonic() - begin
        report = f"seed {SEED}, {LINES} lines in {seconds:.1f} s: {good} {answers}"
        self.assertEqual([0] * WRITERS, statuses, report)
        self.assertEqual([], self.problems[:20], report)
        for kind in ("hello", "status", "bad", "connection"):
            self.assertNotEqual(0, good[kind], report)
        for kind in ("hello", "status", "bad-request", "denied"):
            self.assertNotEqual(0, answers[kind], report)
        self.assertEqual(answers["spawn"], answers["killed"], report)
        self.check_unchanged(before, processes, report)
        ended, failed = good["connection"], answers["killed"]
        self.wait_for_totals(faults=0, ended=ended, failed=failed)
        if "LPSERVE_FUZZ_LINES" in os.environ:
            os.write(2, f"\n{report}\n".encode())

    def check_unchanged(self, before: int, processes: set[int], report: str) -> None:
        """No descriptor, process or path more than before."""
        self.rest(descriptors=before)
        wait_until(lambda: len(self.processes()) == len(processes), report)
        self.assertIn(self.service.pid, self.processes())
        self.assertEqual(
            ["control", "replies/fuzz", "socket"], sorted(self.paths_left())
        )
