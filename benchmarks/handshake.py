# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""How long a client waits: from its request to the first byte of an answer.

Each way to a server is taken in turn, and the service has come to rest before:

* in this process: the request, the FIFOs and ``hello``, with no and with two
  spare workers;
* ``lp-serve-client`` as a process, from its exec;
* ``brz serve --inet`` as a process, from its exec: today's way.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from common import (
    Direct,
    Service,
    Stage,
    arguments,
    check_hello,
    finish,
    run,
)
from figures import median, ms, summary, table, target

SPARE, FORKED, CLIENT, INET = (
    "FIFOs, a spare worker",
    "FIFOs, no spare worker",
    "lp-serve-client",
    "brz serve --inet",
)
#: Of one connection through the FIFOs, in the order in which they happen.
PHASES = ("request to its answer", "opening the FIFOs", "hello to its answer")


def through_fifos(service: Service) -> tuple[float, list[float]]:
    """One connection: seconds to the first byte, and of each of `PHASES`."""
    connection = Direct(service)
    try:
        times = [*connection.times, connection.hello()]
    finally:
        connection.finish()
    phases = [after - before for before, after in itertools.pairwise(times)]
    return times[-1] - times[0], phases


def through_process(start: Callable[[], subprocess.Popen[bytes]]) -> float:
    """One connection through a process: seconds to the first byte."""
    began = time.perf_counter()
    process = start()
    try:
        os.write(process.stdin.fileno(), b"hello\n")
        first = os.read(process.stdout.fileno(), 1)
        took = time.perf_counter() - began
        check_hello(first + os.read(process.stdout.fileno(), 64))
    finally:
        finish(process)
    return took


def measure(stage: Stage, chosen: argparse.Namespace) -> dict[str, Any]:
    times: dict[str, list[float]] = {SPARE: [], FORKED: [], CLIENT: [], INET: []}
    phases: dict[str, list[list[float]]] = {SPARE: [], FORKED: []}
    with (
        stage.service("spare", spare_workers=2) as spare,
        stage.service("forked", spare_workers=0) as forked,
    ):
        services = {SPARE: spare, FORKED: forked}

        def once(way: str) -> float:
            if way in services:
                took, parts = through_fifos(services[way])
                phases[way].append(parts)
                return took
            return through_process(spare.client if way == CLIENT else stage.inet)

        ways = list(times)
        for number in range(-2, chosen.repeat):
            # Each way comes after each other one.
            for way in ways[number % 4 :] + ways[: number % 4]:
                spare.settle()
                forked.settle()
                took = once(way)
                if number >= 0:  # the others warm the disk's cache
                    times[way].append(took)
    return report(times, phases, chosen.repeat)


def report(
    times: dict[str, list[float]], phases: dict[str, list[list[float]]], repeat: int
) -> dict[str, Any]:
    """The result, as `common.run` takes it."""
    today = median(times[INET])
    rows = []
    for way, values in times.items():
        found = summary(values)
        rows.append(
            [
                way,
                *(ms(found[name]) for name in ("median", "p99", "min", "max")),
                f"{today / found['median']:.1f}",
            ]
        )
    text = table(["ms to the first byte", "median", "p99", "min", "max", "ratio"], rows)
    parts = {
        way: [median([each[i] for each in found[-repeat:]]) for i in range(3)]
        for way, found in phases.items()
    }
    text += "\n" + table(
        ["of which (medians)", *PHASES],
        [[way, *map(ms, found)] for way, found in parts.items()],
    )
    return {
        "text": text + "\n",
        "unit": "seconds",
        "ways": {way: summary(values) for way, values in times.items()},
        "phases": {
            way: dict(zip(PHASES, found, strict=False)) for way, found in parts.items()
        },
        "times": times,
        "targets": [
            target("in one process", today / median(times[SPARE]), 15),
            target("lp-serve-client", today / median(times[CLIENT]), 6),
        ],
    }


def main() -> int:
    parser = arguments(__doc__.partition("\n")[0], 100, "connections each way")
    return run("handshake", parser, measure)


if __name__ == "__main__":
    sys.exit(main())
