# SPDX-License-Identifier: GPL-2.0-or-later

"""How many connections a second: clients in a closed loop, to the worker's exit.

Each of some clients says hello, hears the answer, hangs up, waits until the worker
has ended, and begins the next connection at once. One thread drives them all. They
are of this process itself, or native clients that are started for each connection;
and in comparison ``brz serve --inet``, ``git upload-pack`` and Mercurial, with less
connections. The ways take turns by the thousand.

Before and after, and after each thousand, it is looked at what the service and its
zygote have: memory, descriptors, processes. None of it may grow.
"""

from __future__ import annotations

import argparse
import contextlib
import selectors
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from accounts import descriptors, private
from common import add_number, arguments, run
from connections import DOORS, Connection
from figures import median, ms, summary, table, target
from sides import IN_PROCESS, NATIVE, Side, client, in_process, inet, others
from stage import DEADLINE, BenchmarkError, Service, Stage, conversation

#: Connections of a way until the next one has its turn.
SLICE = 1000
#: What of the others is made, which are slower: a part of the connections, and no
#: more than so many.
OTHERS_PART, OTHERS_MOST = 0.1, 500
#: MiB that a process may have more at the end than after the first slice (or at
#: first, if there was one), because an allocator does not give all back at once; a
#: leak of 100 bytes by connection is more, after 100,000.
GROWTH = 4.0
#: Descriptors that the service has for each spare worker, of which there are more
#: for a while when many connections come.
_PER_SPARE = 2
KINDS = ("service MiB", "zygote MiB", "service descriptors", "zygote descriptors")


@dataclass
class Loop:
    """What came of one way.

    :ivar seconds: that all slices took.
    :ivar rates: connections per second of each slice.
    :ivar times: to the first byte, of each connection.
    :ivar failures: how often which line.
    :ivar seen: of the service, before and after each slice.
    """

    side: Side
    connections: int
    done: int = 0
    seconds: float = 0.0
    rates: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    seen: list[dict[str, float]] = field(default_factory=list)


class Clients:
    """A number of clients in a closed loop.

    :param loop: where it is written down.
    """

    def __init__(self, loop: Loop, clients: int):
        self._loop = loop
        self._clients = clients
        self._selector = selectors.DefaultSelector()
        self._left = 0

    def run(self, connections: int) -> None:
        """Make so many connections."""
        self._left = connections
        began = time.perf_counter()
        try:
            for _ in range(min(self._clients, connections)):
                self._begin()
            while self._selector.get_map():
                ready = self._selector.select(DEADLINE)
                if not ready:
                    self._abandon()
                for key, _ in ready:
                    self._selector.unregister(key.fd)
                    self._step(*key.data)
        finally:
            for key in list(self._selector.get_map().values()):
                key.data[0].close()
            self._selector.close()
        took = time.perf_counter() - began
        self._loop.done += connections
        self._loop.seconds += took
        self._loop.rates.append(connections / took)

    def _begin(self) -> None:
        while self._left:
            self._left -= 1
            try:
                made = self._loop.side.start()
            except (OSError, conversation.NoService) as error:
                self._loop.failures[f"not begun: {error}"] += 1
                continue
            self._watch(made, False)
            return

    def _watch(self, made: Connection, answered: bool) -> None:
        key = (made, answered)
        self._selector.register(made.descriptor, selectors.EVENT_READ, key)

    def _step(self, made: Connection, answered: bool) -> None:
        try:
            if answered:
                over = made.ended()
            else:
                over = False
                answered = made.hear()
                if answered:
                    self._loop.times.append(made.took)
                    made.hang_up()
        except (BenchmarkError, OSError) as error:
            self._loop.failures[str(error)] += 1
            made.close()
            over = True
        if over:
            self._begin()
        else:
            self._watch(made, answered)

    def _abandon(self) -> None:
        for key in list(self._selector.get_map().values()):
            self._selector.unregister(key.fd)
            key.data[0].close()
            self._loop.failures["it hangs"] += 1
        self._left = 0


def look(service: Service) -> dict[str, float]:
    """What the service has, at rest."""
    status = service.settle()
    zygote, spares = status["zygote"], status["workers"]["spare"]
    return {
        "service MiB": private(service.pid),
        "zygote MiB": private(zygote),
        "service descriptors": descriptors(service.pid) - _PER_SPARE * spares,
        "zygote descriptors": descriptors(zygote),
        "other processes": len(service.children()) - 1 - spares,
        "faults": status["totals"]["faults"],
        "failed": status["totals"]["failed"],
    }


def measure(stage: Stage, chosen: argparse.Namespace) -> dict[str, Any]:
    fewer = max(1, min(OTHERS_MOST, int(chosen.connections * OTHERS_PART)))
    with contextlib.ExitStack() as stack:
        loops = []
        for kind in (IN_PROCESS, NATIVE):
            for door in DOORS:
                name = f"{kind}-{door}".replace(" ", "-")
                service = stack.enter_context(stage.service(name))
                if kind == IN_PROCESS:
                    side = in_process(service, door)
                else:
                    side = client(stage, service, kind, door)
                loops.append(Loop(side, chosen.connections))
        for side in [*stack.enter_context(others(stage)), inet(stage)]:
            loops.append(Loop(side, fewer))
        for loop in loops:
            if loop.side.service is not None:
                loop.seen.append(look(loop.side.service))
        while any(loop.done < loop.connections for loop in loops):
            for loop in loops:
                left = loop.connections - loop.done
                if left > 0:
                    Clients(loop, chosen.clients).run(min(SLICE, left))
                    if loop.side.service is not None:
                        loop.seen.append(look(loop.side.service))
            if max(loop.connections for loop in loops) > SLICE:
                print(f"{max(loop.done for loop in loops)} done", file=sys.stderr)
    return report(loops, chosen.clients)


def report(loops: list[Loop], clients: int) -> dict[str, Any]:
    """The result, as `common.run` takes it."""
    rows, growth, targets, lines, ways = [], [], [], [], {}
    for loop in loops:
        name, failed = loop.side.name, sum(loop.failures.values())
        rate = loop.done / loop.seconds
        found = summary(loop.times or [0.0])
        shown = [ms(found[key]) for key in ("median", "p99")]
        rows.append(
            [name, loop.done, f"{rate:.0f}", f"{min(loop.rates):.0f}", *shown, failed]
        )
        ways[name] = {
            "connections": loop.done,
            "per_second": rate,
            "rates": loop.rates,
            "first_byte": found,
            "failures": failed,
            "seen": loop.seen,
        }
        lines += [f"{name}: {n} x {what}" for what, n in loop.failures.most_common(3)]
        if loop.seen:
            first, last = loop.seen[min(1, len(loop.seen) - 2)], loop.seen[-1]
            cells = [f"{first[kind]:.1f} -> {last[kind]:.1f}" for kind in KINDS]
            growth.append([name, *cells, last["other processes"]])
            lines += [f"{name}: {each}" for each in grown(first, last)]
            targets.append(
                target(f"connections per second, {name}", rate, 250, "per second")
            )
    head = [f"{clients} clients in a closed loop", "connections", "per second"]
    text = table([*head, "slowest slice", "ms to first byte", "p99", "failures"], rows)
    text += "\n" + table(["at first -> at the end", *KINDS, "other processes"], growth)
    served = [loop for loop in loops if loop.side.service is not None]
    total = sum(loop.done for loop in served)
    failed = sum(sum(loop.failures.values()) for loop in served)
    targets.append(target(f"failures of {total:,}", failed, 0, "failures", True))
    return {
        "text": text + "\n",
        "unit": "per second",
        "clients": clients,
        "ways": ways,
        "median_rates": {loop.side.name: median(loop.rates) for loop in loops},
        "failures": lines,
        "targets": targets,
    }


def grown(first: dict[str, float], last: dict[str, float]) -> list[str]:
    """Lines on what a service has more than it had."""
    lines = []
    for kind in KINDS:
        allowed = GROWTH if kind.endswith("MiB") else 0
        if last[kind] > first[kind] + allowed:
            lines.append(f"{kind}: {first[kind]:.1f}, later {last[kind]:.1f}")
    for kind in ("other processes", "faults", "failed"):
        if last[kind]:
            lines.append(f"{last[kind]} {kind}")
    return lines


def main() -> int:
    parser = arguments(__doc__)
    add_number(parser, "connections", 3000, "connections each way")
    add_number(parser, "clients", 8, "clients at once")
    return run("throughput", parser, measure)


if __name__ == "__main__":
    sys.exit(main())
