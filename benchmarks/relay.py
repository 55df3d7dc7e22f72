# SPDX-License-Identifier: GPL-2.0-or-later

"""Bytes through the client's relay, against the same bytes without a client.

1 GiB to the worker, and as much from it, through the FIFOs with the native and with
the Python client, and through the socket, where the worker has the client's own
standard input and output, so that no relay is there at all. The client's are pipes,
or a socket for both, which is what sshd gives to commands. The worker only swallows
or writes, and so does the peer; see movers.py. The time is from the first byte until
the last process has seen the end of file.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from common import add_number, arguments, run
from connections import DOORS
from figures import median, summary, table, target
from movers import Child, FakeService, end_writing, produce, quietly, swallow
from sides import NATIVE, PYTHON, client_words
from stage import DEADLINE, FIFO, BenchmarkError, Stage

BARE = "no client"
PIPES, ONE_SOCKET = "pipes", "a socket"
TO, FROM = "to the worker", "from the worker"


def stdio(kind: str) -> tuple[list[int], list[int]]:
    """Descriptors of a client's standard input and output, and of our ends."""
    if kind == PIPES:
        stdin, to_write = os.pipe()
        to_read, stdout = os.pipe()
        return [stdin, stdout], [to_write, to_read]
    with contextlib.ExitStack() as stack:
        ours, theirs = (stack.enter_context(each) for each in socket.socketpair())
        return (
            [os.dup(theirs.fileno()), os.dup(theirs.fileno())],
            [os.dup(ours.fileno()), os.dup(ours.fileno())],
        )


class Path:
    """One way of the bytes, which is gone when they are through.

    :param words: a client, whose words for *door* they are, or None.
    """

    def __init__(
        self, stage: Stage, kind: str, way: str, words: list[str] | None, door: str
    ):
        self._directory = os.path.join(stage.runtime, "fake")
        self._stage = stage
        self._way = way
        self._words = words
        self._door = door
        self._service: FakeService | None = None
        self._client: subprocess.Popen[bytes] | None = None
        self._children: list[Child] = []
        self._theirs, self._ours = stdio(kind)
        self._gate = os.pipe()

    def move(self, count: int) -> float:
        """Move *count* bytes; the seconds that it took."""
        try:
            return self._move(count)
        finally:
            quietly(self._children)
            if self._client is not None:
                self._client.kill()
                self._client.wait()
            if self._service is not None:
                self._service.close()
            for descriptor in [*self._theirs, *self._ours, *self._gate]:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
            shutil.rmtree(self._directory, ignore_errors=True)

    def _move(self, count: int) -> float:
        def worker(stdin: int, stdout: int) -> None:
            if self._way == TO:
                swallow(stdin, count)
                end_writing(stdout)
            else:
                self._wait_for_gate()
                produce(stdout, count)

        def peer() -> None:
            if self._way == TO:
                self._wait_for_gate()
                produce(self._ours[0], count)
            else:
                swallow(self._ours[1], count)

        self._start_worker(worker)
        keep = {*self._ours, *self._gate} - {self._ours[self._way == TO]}
        self._children.append(Child(peer, keep))
        # What we have open must not keep anybody from seeing an end of file.
        for descriptor in self._theirs:
            os.close(descriptor)
        if self._way == TO:
            os.close(self._ours[0])
        # Until all of them wait.
        time.sleep(0.05)
        began = time.perf_counter()
        os.write(self._gate[1], b"x")
        for child in self._children:
            child.wait()
        took = time.perf_counter() - began
        self._end_client()
        return took

    def _wait_for_gate(self) -> None:
        os.read(self._gate[0], 1)

    def _start_worker(self, work: Callable[[int, int], None]) -> None:
        if self._words is None:
            stdin, stdout = self._theirs
            keep = {*self._theirs, *self._gate}
            self._children.append(Child(lambda: work(stdin, stdout), keep))
            return
        self._service = FakeService(self._directory, self._door)
        with open(self._stage.errors, "ab") as errors:
            self._client = subprocess.Popen(
                [*self._words, f"--runtime-dir={self._directory}"],
                stdin=self._theirs[0],
                stdout=self._theirs[1],
                stderr=errors,
                env=self._stage.environ("relay", plugin=True),
            )
        self._children.append(self._service.serve(work, self._gate))

    def _end_client(self) -> None:
        if self._client is None or self._service is None:
            return
        self._service.answer("exit", 0)
        if self._client.wait(DEADLINE):
            with open(self._stage.errors, errors="replace") as file:
                raise BenchmarkError(f"the client failed: {file.read().strip()}")


def measure(stage: Stage, chosen: argparse.Namespace) -> dict[str, Any]:
    count = chosen.mib << 20
    clients: dict[str, tuple[list[str] | None, str]] = {BARE: (None, "")}
    for kind in (NATIVE, PYTHON):
        for door in DOORS:
            clients[f"{kind}, {door}"] = client_words(stage, kind, door), door
    ways = [
        (name, kind, way)
        for kind in (PIPES, ONE_SOCKET)
        for way in (TO, FROM)
        for name in clients
    ]
    rates: dict[tuple[str, str, str], list[float]] = {way: [] for way in ways}
    for number in range(chosen.repeat):
        turn = number % len(ways)
        for name, kind, way in [*ways[turn:], *ways[:turn]]:
            took = Path(stage, kind, way, *clients[name]).move(count)
            rates[name, kind, way].append(count / took / (1 << 20))
    return report(rates, chosen.mib)


def report(rates: dict[tuple[str, str, str], list[float]], mib: int) -> dict[str, Any]:
    """The result, as `common.run` takes it."""
    rows, figures, targets = [], [], []
    for (name, kind, way), values in rates.items():
        found = summary(values)
        share = found["median"] / median(rates[BARE, kind, way])
        cells = [f"{found[key]:.0f}" for key in ("median", "min", "max")]
        rows.append([name, kind, way, len(values), *cells, f"{share * 100:.0f} %"])
        figures.append(
            {"way": name, "stdio": kind, "direction": way, "share": share, **found}
        )
        if kind == PIPES and name != BARE:
            through = "the FIFO relay" if name.endswith(FIFO) else "the socket door"
            what = f"{mib} MiB {way} through {through}, {name.partition(',')[0]}"
            targets.append(target(what, share * 100, 80, "% of a bare pipe"))
    head = ["client", "its stdio", "bytes", "runs", "MiB/s", "min", "max", "share"]
    return {
        "text": table(head, rows) + "\n",
        "unit": "MiB/s",
        "mib": mib,
        "figures": figures,
        "targets": targets,
    }


def main() -> int:
    parser = arguments(__doc__, 5, "times each way")
    add_number(parser, "mib", 1024, "MiB each time")
    return run("relay", parser, measure)


if __name__ == "__main__":
    sys.exit(main())
