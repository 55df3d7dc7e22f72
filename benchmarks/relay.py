# SPDX-License-Identifier: GPL-2.0-or-later

"""Bytes through the client's relay, against the same bytes without a client.

1 GiB to the worker, and as much from it, through the FIFOs with the native and with
the Python client; through the socket the worker has the client's own descriptors, so
no relay is there. What a relay is worth is seen where nobody is slower than it: a smart
server would be. So this process answers the client as the service does, and both
the worker and the peer are ``dd``, with pipes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import select
import shutil
import subprocess
import sys
import time

from runner import Result, add_number, arguments, in_turn, ratios, run
from sides import NATIVE, PYTHON, client_words
from stage import DEADLINE, FIFO, PLUGIN, BenchmarkError, Stage

from lpserve import wire  # which stage has made importable
from lpserve.paths import RuntimeDirectory, remove_connection

BARE = "no client"
TO, FROM = "to the worker", "from the worker"
#: What is read and written at once: what a pipe holds.
_BLOCK = 1 << 16


def dd(stdin: int, stdout: int, *words: str) -> subprocess.Popen[str]:
    """A program that moves bytes from *stdin* to *stdout*."""
    return subprocess.Popen(
        ["env", "LC_ALL=C", "dd", f"bs={_BLOCK}", *words],
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(program: subprocess.Popen[str], count: int) -> None:
    """Wait for its end; it has to have moved *count* bytes."""
    _, said = program.communicate(timeout=DEADLINE)
    found = re.search(r"(\d+) bytes", said)
    if program.returncode or found is None or int(found[1]) != count:
        raise BenchmarkError(f"{count} bytes should have come: {said.strip()}")


class Client:
    """A client that was given a worker of ours through the FIFOs.

    :ivar stdin, stdout: the worker's.
    """

    def __init__(self, stage: Stage, words: list[str], stdin: int, stdout: int):
        self._path = os.path.join(stage.runtime, "fake")
        directory = RuntimeDirectory(self._path)
        directory.prepare()
        os.mkfifo(directory.control, 0o600)
        self._control = os.open(directory.control, os.O_RDWR | os.O_NONBLOCK)
        with open(stage.errors, "ab") as errors:
            self._process = subprocess.Popen(
                [*words, f"--runtime-dir={self._path}"],
                stdin=stdin,
                stdout=stdout,
                stderr=errors,
                env=stage.environ("relay", PLUGIN),
            )
        if not select.select([self._control], [], [], DEADLINE)[0]:
            self._process.kill()
            raise BenchmarkError("the client asks for nothing")
        request = wire.parse_request(os.read(self._control, wire.MAX_REQUEST).strip())
        place = os.path.join(directory.replies, str(request.reply))
        self._reply = os.open(place, os.O_WRONLY)
        made = directory.make_connection()
        self.stdin = os.dup(made.stdin)
        self._answer("ok", os.getpid(), *made.fifos)
        self.stdout, stderr = [os.open(path, os.O_WRONLY) for path in made.fifos[1:]]
        os.close(stderr)
        remove_connection(made.path)
        made.close()

    def _answer(self, *words: object) -> None:
        os.write(self._reply, wire.encode_answer(*words))

    def end(self) -> None:
        """Tell it that its worker has ended; it has to end well."""
        self._answer("exit", 0)
        if status := self._process.wait(DEADLINE):
            raise BenchmarkError(f"the client ended with status {status}")

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()
        os.close(self._control)
        os.close(self._reply)
        shutil.rmtree(self._path, ignore_errors=True)


def move(stage: Stage, way: str, words: list[str], count: int) -> float:
    """Move *count* bytes; MiB per second.

    :param words: the client's, if there is one.
    """
    stdin, to_write = os.pipe()
    to_read, stdout = os.pipe()
    with contextlib.ExitStack() as stack:
        zero = stack.enter_context(open("/dev/zero"))
        client = None
        if words:
            client = Client(stage, words, stdin, stdout)
            stack.callback(client.close)
            os.close(stdin)
            os.close(stdout)
            stdin, stdout = client.stdin, client.stdout
        reads, writes = (stdin, to_write) if way == TO else (to_read, stdout)
        for each in {stdin, stdout, to_read, to_write} - {reads, writes}:
            stack.callback(os.close, each)
        reader = dd(reads, subprocess.DEVNULL)
        stack.callback(reader.kill)
        os.close(reads)
        began = time.perf_counter()
        writer = dd(zero.fileno(), writes, f"count={count // _BLOCK}")
        stack.callback(writer.kill)
        os.close(writes)
        finish(writer, count)
        finish(reader, count)
        took = time.perf_counter() - began
        if client is not None:
            client.end()
    return count / took / (1 << 20)


def measure(stage: Stage, chosen: argparse.Namespace) -> Result:
    clients = {BARE: [], **{k: client_words(stage, k, FIFO) for k in (NATIVE, PYTHON)}}
    rates: dict[str, dict[str, list[float]]] = {
        way: {name: [] for name in clients} for way in (TO, FROM)
    }
    for name, _ in in_turn(list(clients), chosen.repeat, warm=0):
        for way, found in rates.items():
            found[name].append(move(stage, way, clients[name], chosen.mib << 20))
    result = Result()
    for way, found in rates.items():
        result.figures(f"MiB per second, {way}", found)
        for name in (NATIVE, PYTHON):
            share = [each * 100 for each in ratios(found[name], found[BARE])]
            what = f"{chosen.mib} MiB {way} through the relay, {name}"
            result.target(what, share, 80, "% of a bare pipe")
    return result


if __name__ == "__main__":
    parser = arguments(__doc__, 6, "times each way")
    add_number(parser, "mib", 1024, "MiB each time")
    sys.exit(run("relay", parser, measure))
