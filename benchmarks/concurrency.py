# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""Many connections at once: how long each waits, and whether all are served.

Each asks for a server, opens it, says ``hello``, holds the connection until all of
them have their answers, and ends. Its time is from its own request (or exec) to
the first byte of the answer. One thread drives them all and waits for whichever is
ready, so that it measures the other side and not itself.
"""

from __future__ import annotations

import argparse
import os
import resource
import selectors
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from common import (
    DEADLINE,
    HELLO,
    USER,
    BenchmarkError,
    Service,
    Stage,
    arguments,
    conversation,
    finish,
    run,
)
from figures import ms, summary, table

DIRECT, CLIENT, INET = "FIFOs", "lp-serve-client", "brz serve --inet"
#: How many at once, each way; more processes would measure the machine's memory.
AT_ONCE = {DIRECT: (1, 10, 100, 500), CLIENT: (1, 10, 100), INET: (1, 10, 100)}


class Attempt:
    """One connection of many.

    :ivar descriptor: what it waits for.
    :ivar took: seconds to the first byte of the answer, once that is there.
    """

    descriptor: int

    def __init__(self) -> None:
        self.took: float | None = None
        self._answer = b""
        self._began = time.perf_counter()
        self.begin()

    def begin(self) -> None:
        """Ask for a server."""
        raise NotImplementedError(self.begin)

    def step(self) -> bool:
        """Go on, as *descriptor* is ready; whether the answer is there."""
        came = time.perf_counter()
        data = os.read(self.descriptor, 64)
        if not data:
            raise BenchmarkError("the connection was closed without an answer")
        if self.took is None:
            self.took = came - self._began
        self._answer += data
        if not HELLO.startswith(self._answer):
            raise BenchmarkError(f"the answer to hello is {self._answer!r}")
        return self._answer == HELLO

    def hang_up(self) -> None:
        """Let the server see the end of our requests."""
        raise NotImplementedError(self.hang_up)

    def finish(self) -> None:
        """Wait until the server has ended, and well."""
        raise NotImplementedError(self.finish)


class DirectAttempt(Attempt):
    """Through the FIFOs of *service*, by this process."""

    def __init__(self, service: Service):
        self._service = service
        self._ends: list[int] = []
        super().__init__()

    def begin(self) -> None:
        self._conversation = conversation.Conversation(self._service.directory)
        deadline = time.monotonic() + DEADLINE
        self._conversation.send(["spawn", USER], deadline)
        self.descriptor = self._conversation.reply

    def step(self) -> bool:
        if self._ends:
            return super().step()
        answer = self._conversation.read_answer()
        if answer is not None:
            if answer[0] != "ok":
                raise BenchmarkError(f"the service says {' '.join(answer)}")
            self._ends.append(os.open(answer[2], os.O_WRONLY))
            for path in answer[3:]:
                self._ends.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
            os.write(self._ends[0], b"hello\n")
            self.descriptor = self._ends[1]
        return False

    def hang_up(self) -> None:
        for end in self._ends:
            os.close(end)
        self._ends = []

    def finish(self) -> None:
        try:
            answer = self._conversation.wait_answer(time.monotonic() + DEADLINE)
        finally:
            self._conversation.close()
        if answer != ["exit", "0"]:
            raise BenchmarkError(f"a worker ended with {' '.join(answer)}")


class ProcessAttempt(Attempt):
    """Through a process that *start* starts."""

    def __init__(self, start: Callable[[], subprocess.Popen[bytes]]):
        self._start = start
        super().__init__()

    def begin(self) -> None:
        self._process = self._start()
        os.write(self._process.stdin.fileno(), b"hello\n")
        self.descriptor = self._process.stdout.fileno()

    def hang_up(self) -> None:
        self._process.stdin.close()

    def finish(self) -> None:
        finish(self._process)


def at_once(
    begin: Callable[[], Attempt], count: int
) -> tuple[list[float], float, list[str]]:
    """*count* connections at once.

    :returns: the seconds that those took that were answered, the seconds until
        all were, and why others were not.
    """
    failures: list[str] = []
    attempts: list[Attempt] = []
    started = time.perf_counter()
    with selectors.DefaultSelector() as selector:

        def watch(attempt: Attempt) -> None:
            selector.register(attempt.descriptor, selectors.EVENT_READ, attempt)

        for _ in range(count):
            try:
                attempts.append(begin())
                watch(attempts[-1])
            except (OSError, conversation.NoService) as error:
                failures.append(f"not begun: {error}")
        end = time.monotonic() + DEADLINE
        while selector.get_map() and time.monotonic() < end:
            for key, _ in selector.select(end - time.monotonic()):
                selector.unregister(key.fd)
                try:
                    if not key.data.step():
                        watch(key.data)
                except (BenchmarkError, OSError) as error:
                    failures.append(str(error))
        failures += ["not answered in time"] * len(selector.get_map())
    answered = time.perf_counter() - started
    for attempt in attempts:
        attempt.hang_up()
    for attempt in attempts:
        try:
            attempt.finish()
        except (BenchmarkError, OSError, conversation.NoService) as error:
            failures.append(str(error))
    return [each.took for each in attempts if each.took is not None], answered, failures


def measure(stage: Stage, chosen: argparse.Namespace) -> dict[str, Any]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    levels = [
        (way, count)
        for count in sorted({each for counts in AT_ONCE.values() for each in counts})
        for way, counts in AT_ONCE.items()
        if count in counts and count <= chosen.at_most
    ]
    times: dict[tuple[str, int], list[float]] = {level: [] for level in levels}
    whole: dict[tuple[str, int], list[float]] = {level: [] for level in levels}
    failures: dict[tuple[str, int], list[str]] = {level: [] for level in levels}
    with stage.service(max_workers=0) as service:
        begin: dict[str, Callable[[], Attempt]] = {
            DIRECT: lambda: DirectAttempt(service),
            CLIENT: lambda: ProcessAttempt(service.client),
            INET: lambda: ProcessAttempt(stage.inet),
        }
        for way in AT_ONCE:
            at_once(begin[way], 1)  # to warm the disk's cache
        for _ in range(chosen.repeat):
            for level in levels:
                service.settle()
                found, answered, failed = at_once(begin[level[0]], level[1])
                times[level] += found
                whole[level].append(answered)
                failures[level] += failed
        faults = service.settle()["totals"]["faults"]
    return report(times, whole, failures, faults)


def report(
    times: dict[tuple[str, int], list[float]],
    whole: dict[tuple[str, int], list[float]],
    failures: dict[tuple[str, int], list[str]],
    faults: int,
) -> dict[str, Any]:
    """The result, as `common.run` takes it."""
    rows = []
    figures = []
    for (way, count), values in times.items():
        found = (
            summary(values) if values else dict.fromkeys(("median", "p99", "max"), 0)
        )
        last = summary(whole[way, count])["median"]
        failed = failures[way, count]
        shown = [ms(found[name]) for name in ("median", "p99", "max")]
        rows.append([way, count, *shown, ms(last), len(failed)])
        figures.append(
            {
                "way": way,
                "at_once": count,
                "all_answered": last,
                "failures": len(failed),
                **found,
            }
        )
    head = ["ms to the first byte", "at once", "median", "p99", "max"]
    lines = [
        f"{count} at once through {way}: {len(failed)} failed, the first: {failed[0]}"
        for (way, count), failed in failures.items()
        if failed
    ]
    if faults:
        lines.append(f"the service logged {faults} faults")
    return {
        "text": table([*head, "all answered", "failures"], rows) + "\n",
        "unit": "seconds",
        "figures": figures,
        "failures": lines,
    }


def main() -> int:
    parser = arguments(__doc__.partition("\n")[0], 3, "rounds")
    parser.add_argument(
        "--at-most",
        type=int,
        default=500,
        metavar="N",
        help="leave out more than N connections at once (default: 500)",
    )
    return run("concurrency", parser, measure)


if __name__ == "__main__":
    sys.exit(main())
