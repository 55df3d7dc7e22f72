# SPDX-License-Identifier: GPL-2.0-or-later

"""Rubbish at both doors of a service that others are using.

``LPSERVE_FUZZ_LINES`` says how many lines are written to the FIFO (20,000);
``LPSERVE_FUZZ_SEED`` repeats a run.
"""

import collections
import json
import os
import random
import select
import shlex
import signal
import socket
import threading
from collections.abc import Callable, Iterator

from ....lpserve.client import conversation
from ....lpserve.client.socketconversation import SocketConversation
from ...harness import LiveTestCase, read_line, wait_until
from ..spawning.socketcase import Link

#: How many lines are written to the FIFO.
LINES = int(os.environ.get("LPSERVE_FUZZ_LINES", "20000"))
SEED = int(os.environ.get("LPSERVE_FUZZ_SEED", random.randrange(1 << 32)))
_DONTWAIT = socket.MSG_DONTWAIT

#: Requests from which rubbish is made. None ends the service or loads a zygote.
#: Nobody reads the reply "nobody".
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
#: Over-long lines are rare: each has as many bytes as a hundred others.
WEIGHTS = (4, 8, 1, 4, 4, 4, 4, 4)


def rubbish(rng: random.Random, count: int) -> Iterator[bytes]:
    """Yield what to write at a time: *count* lines, not all with a newline."""
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
    """FAULTS 11, 12 and 13."""

    def start_writer(
        self, write: Callable[[Iterator[bytes], random.Random], None], lines: int
    ) -> int:
        """Start a process that writes rubbish; its pid."""
        self.number += 1
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                signal.alarm(600)
                rng = random.Random(f"{SEED} {self.number}")
                write(rubbish(rng, lines), rng)
                status = 0
            finally:
                os._exit(status)
        return pid

    def write_to_fifo(self, pieces: Iterator[bytes], rng: random.Random) -> None:
        control = os.open(os.path.join(self.runtime, "control"), os.O_WRONLY)
        for data in pieces:
            while data:
                data = data[os.write(control, data) :]

    def write_to_socket(self, pieces: Iterator[bytes], rng: random.Random) -> None:
        """Write over many connections, with descriptors or none; read some answers."""
        null = os.open(os.devnull, os.O_RDWR)
        link = Link(self.runtime)
        for data in pieces:
            attached = [null] * rng.choice((0, 0, 0, 0, 1, 3, 3, 9))
            # The service takes no more while nobody reads its answers.
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

    def read_answers(self, reply: int) -> None:
        """Check what is answered to rubbish at the FIFO, until a line "over"."""
        while (line := read_line(reply, 600)) != b"over\n":
            try:
                kind = self.kind_of(shlex.split(line.decode()))
            except (ValueError, IndexError, KeyError):
                kind = f"wrong: {line!r}"
            self.answers[kind] += 1

    def kind_of(self, words: list[str]) -> str:
        """What an answer to rubbish is; a ValueError if it can be to nothing."""
        if words == self.hello:
            return "hello"
        if words[0] == "ok" and len(words) == 2:
            right = json.loads(words[1])["pid"] == self.service.pid
            return "status" if right else f"wrong: {words}"
        if words[0] == "ok" and len(words) == 5 and os.path.exists(words[2]):
            # "spawn" of one and "alice reply=fuzz" of another are a request.
            os.kill(int(words[1]), signal.SIGKILL)
            return "spawn"
        if words[0] == "error" and words[1] in ("bad-request", "denied"):
            return words[1]
        if words == ["signal", "9"]:
            return "killed"
        raise ValueError

    def check_good_requests(self) -> None:
        """Requests of others are answered meanwhile, through both doors."""
        self.check_serves("bob")
        for door in (conversation.Conversation, SocketConversation):
            for words, expected in (
                (["hello"], self.hello),
                (["hello", "you"], ["error", "bad-request"]),
            ):
                answer = conversation.ask(self.runtime, words, door=door)
                self.assertEqual(expected, answer[: len(expected)], f"seed {SEED}")

    def test_rubbish(self):
        self.start_service()
        self.hello = self.ask("hello")
        self.answers: collections.Counter = collections.Counter()
        self.number = 0
        before = self.rest()
        processes = len(self.processes())
        path = os.path.join(self.runtime, "replies", "fuzz")
        os.mkfifo(path, 0o600)
        self.addCleanup(os.unlink, path)
        reply = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self.addCleanup(os.close, reply)
        # Before there is a second thread.
        writers = [self.start_writer(self.write_to_fifo, LINES // 4) for _ in range(4)]
        writers += [
            self.start_writer(self.write_to_socket, LINES // 20) for _ in range(2)
        ]
        reader = threading.Thread(target=self.read_answers, args=(reply,))
        reader.start()
        try:
            while writers:
                self.check_good_requests()
                for pid in list(writers):
                    ended, status = os.waitpid(pid, os.WNOHANG)
                    if ended:
                        writers.remove(pid)
                        self.assertEqual(0, status, f"seed {SEED}")
        finally:
            # The service has read all of the rubbish when it answers to this.
            self.settled_status()
            # Blocking: the FIFO may be full of answers that are still to be read.
            with open(path, "wb", buffering=0) as end:
                end.write(b"over\n")
            reader.join()
        report = f"seed {SEED}: {dict(self.answers)}"
        self.assertEqual([], [kind for kind in self.answers if "wrong" in kind], report)
        for kind in ("hello", "status", "bad-request", "denied"):
            self.assertNotEqual(0, self.answers[kind], report)
        self.assertEqual(self.answers["spawn"], self.answers["killed"], report)
        # A new zygote begins with the usual number of spare workers.
        self.assertEqual(["ok"], self.ask("reload"))
        self.rest(descriptors=before)
        self.assertEqual(0, self.status()["totals"]["faults"], report)
        wait_until(lambda: len(self.processes()) == processes, report)
        self.assertEqual(
            ["control", "replies/fuzz", "socket"], sorted(self.paths_left())
        )
