# SPDX-License-Identifier: GPL-2.0-or-later

"""How long a client waits: from its request to the first byte of an answer.

In this process, which speaks the protocol of either door itself: the request, the
descriptors or FIFOs, and ``hello``; with spare workers and without any. Beside it
``brz serve --inet`` from its exec, today's way. Each way is taken in turn, and the
services have come to rest before, with their spare workers.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from typing import Any

from common import arguments, run
from connections import DOORS, FifoConnection, SocketConnection, say_hello
from figures import median, ms, summary, table, target, times_table
from sides import INET, in_process, in_turn, inet
from stage import FIFO, SOCKET, Service, Stage

SPARE, FORKED = "a spare worker", "no spare worker"
#: Of one connection, in the order in which they happen.
PHASES = {
    FIFO: ("request to its answer", "opening the FIFOs", "hello to its answer"),
    SOCKET: ("request to its answer", "to the answer to hello"),
}


def phases_of(service: Service, door: str) -> list[float]:
    """One connection, not measured otherwise: the seconds of each of `PHASES`."""
    made: FifoConnection | SocketConnection
    if door == FIFO:
        made = FifoConnection(service.directory)
    else:
        made = SocketConnection(service.directory)
        made.wait_ok()
    made.wait()
    made.finish()
    moments = [made.began, *made.moments, made.came or 0.0]
    return [after - before for before, after in itertools.pairwise(moments)]


def measure(stage: Stage, chosen: argparse.Namespace) -> dict[str, Any]:
    phases: dict[str, list[list[float]]] = {}
    with (
        stage.service("spare", spare_workers=2) as spare,
        stage.service("forked", spare_workers=0) as forked,
    ):
        services = {SPARE: spare, FORKED: forked}
        sides = [
            in_process(service, door, f"{door}, {what}")
            for what, service in services.items()
            for door in DOORS
        ]
        sides.append(inet(stage))
        times: dict[str, list[float]] = {side.name: [] for side in sides}
        for side, counts in in_turn(sides, chosen.repeat):
            took = say_hello(side.start).took
            if counts:
                times[side.name].append(took)
        for _ in range(min(chosen.repeat, 50)):
            for what, service in services.items():
                for door in DOORS:
                    service.settle()
                    found = phases.setdefault(f"{door}, {what}", [])
                    found.append(phases_of(service, door))
    return report(times, phases)


def report(
    times: dict[str, list[float]], phases: dict[str, list[list[float]]]
) -> dict[str, Any]:
    """The result, as `common.run` takes it."""
    text = times_table("ms to the first byte", times, INET)
    parts = {way: list(map(median, zip(*found))) for way, found in phases.items()}
    for door in DOORS:
        text += "\n" + table(
            ["of which (medians)", *PHASES[door]],
            [[way, *map(ms, found)] for way, found in parts.items() if door in way],
        )
    today = median(times[INET])
    targets = []
    for door in DOORS:
        found = median(times[f"{door}, {SPARE}"])
        what = f"request to first byte, in process, {door}"
        targets.append(target(what, found * 1000, 1, "ms", at_most=True))
        targets.append(target(f"{what}, than brz", today / found, 150))
    return {
        "text": text + "\n",
        "unit": "seconds",
        "ways": {way: summary(values) for way, values in times.items()},
        "phases": {
            way: dict(zip(PHASES[way.partition(",")[0]], found))
            for way, found in parts.items()
        },
        "times": times,
        "targets": targets,
    }


def main() -> int:
    parser = arguments(__doc__, 200, "connections each way")
    return run("handshake", parser, measure)


if __name__ == "__main__":
    sys.exit(main())
