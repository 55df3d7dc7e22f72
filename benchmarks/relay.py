# SPDX-License-Identifier: GPL-2.0-or-later

"""The throughput of the client's relay, compared with a bare pipe.

1 GiB to the worker and 1 GiB from it, through the FIFOs with each client. A smart
server would be slower than the relay, so this process answers the client as the
service does, and ``dd`` is the peer and the worker.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

from runner import Result, in_rounds, options, ratios, run
from sides import NATIVE, PYTHON, client_words
from stage import DEADLINE, FIFO, PLUGIN, BenchmarkError, Stage

from lpserve import wire  # stage has put it on sys.path
from lpserve.paths import RuntimeDirectory, remove_connection

BARE = "no client"
TO, FROM = "to the worker", "from the worker"
#: Bytes of one read or write: the capacity of a pipe.
_BLOCK = 1 << 16


@contextlib.contextmanager
def relayed(
    stage: Stage, words: list[str], stdin: int, stdout: int
) -> Iterator[tuple[int, int]]:
    """Run a client with this stdio; the stdin and stdout of its worker."""
    path = os.path.join(stage.runtime, "fake")
    directory = RuntimeDirectory(path)
    directory.prepare()
    os.mkfifo(directory.control, 0o600)
    control = os.open(directory.control, os.O_RDWR | os.O_NONBLOCK)
    client = subprocess.Popen(
        [*words, f"--runtime-dir={path}"],
        stdin=stdin,
        stdout=stdout,
        env=stage.environ("relay", PLUGIN),
    )
    try:
        if not select.select([control], [], [], DEADLINE)[0]:
            raise BenchmarkError("the client sends no request")
        request = wire.parse_request(os.read(control, wire.MAX_REQUEST).strip())
        reply = os.open(f"{directory.replies}/{request.reply}", os.O_WRONLY)
        made = directory.make_connection()
        worker_stdin = os.dup(made.stdin)
        os.write(reply, wire.encode_answer("ok", os.getpid(), *made.fifos))
        worker_stdout, stderr = [os.open(each, os.O_WRONLY) for each in made.fifos[1:]]
        remove_connection(made.path)
        made.close()
        yield worker_stdin, worker_stdout
        os.write(reply, wire.encode_answer("exit", 0))
        for each in (stderr, reply):
            os.close(each)
        if status := client.wait(DEADLINE):
            raise BenchmarkError(f"the client ended with status {status}")
    finally:
        client.kill()
        client.wait()
        os.close(control)
        shutil.rmtree(path, ignore_errors=True)


def transfer(source: int, sink: int, count: int) -> float:
    """Write *count* bytes to *sink* and read them from *source*; MiB per second.

    Closes both.
    """
    dd = ["env", "LC_ALL=C", "dd", f"bs={_BLOCK}"]
    how = {"stderr": subprocess.PIPE, "text": True}
    writes = [*dd, "if=/dev/zero", f"count={count // _BLOCK}"]
    with (
        subprocess.Popen(dd, stdin=source, stdout=subprocess.DEVNULL, **how) as reader,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(reader.kill)
        os.close(source)
        began = time.perf_counter()
        writer = stack.enter_context(subprocess.Popen(writes, stdout=sink, **how))
        stack.callback(writer.kill)
        os.close(sink)
        for program in (writer, reader):
            _, said = program.communicate(timeout=DEADLINE)
            if f"\n{count} bytes" not in said:
                raise BenchmarkError(f"{count} bytes should have come: {said.strip()}")
        return count / (time.perf_counter() - began) / (1 << 20)


def move(stage: Stage, way: str, words: list[str], count: int) -> float:
    """Move *count* bytes through the client *words*, if any; MiB per second."""
    stdin, to_write = os.pipe()
    to_read, stdout = os.pipe()
    with contextlib.ExitStack() as stack:
        if words:
            ends = stack.enter_context(relayed(stage, words, stdin, stdout))
            os.close(stdin)
            os.close(stdout)
            stdin, stdout = ends
        used, unused = (stdin, to_write), (to_read, stdout)
        if way == FROM:
            used, unused = unused, used
        rate = transfer(*used, count)
        for each in unused:
            os.close(each)
        return rate


def measure(stage: Stage, chosen: argparse.Namespace) -> Result:
    clients = {BARE: [], **{k: client_words(stage, k, FIFO) for k in (NATIVE, PYTHON)}}
    count = chosen.mib << 20
    ways = {
        (way, name): functools.partial(move, stage, way, words, count)
        for way in (TO, FROM)
        for name, words in clients.items()
    }
    rates = in_rounds(ways, chosen.repeat, warm=0)
    result = Result()
    for way in (TO, FROM):
        found = {name: rates[way, name] for name in clients}
        result.figures(f"MiB per second, {way}", found)
        for name in (NATIVE, PYTHON):
            share = [each * 100 for each in ratios(found[name], found[BARE])]
            what = f"{chosen.mib} MiB {way} through the relay, {name}"
            result.target(what, share, 80, "% of a bare pipe")
    return result


if __name__ == "__main__":
    parser = options(__doc__, repeat=(6, "times each way"), mib=(1024, "MiB each time"))
    sys.exit(run(parser, measure))
