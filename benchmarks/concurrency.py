# SPDX-License-Identifier: GPL-2.0-or-later

"""Many connections at once: how long each waits, how many a second, what is left.

First bursts: each connection asks for a server, says ``hello``, and is held until all
of them have their answers. Its time is from its own request (or exec) to the first
byte of the answer. Then a closed loop: each of some clients says hello, hears the
answer, hangs up, waits until the worker has ended, and begins the next connection at
once. The ways take turns. One thread drives them all and waits for whichever is
ready, so that it measures the other side and not itself.

After each turn it is looked at what the service and its zygote have: memory and
descriptors. None of it may grow.
"""

from __future__ import annotations

import argparse
import selectors
import sys
import time
from collections import Counter

from accounts import descriptors, private
from connections import Connection
from runner import Result, add_number, arguments, run
from sides import IN_PROCESS, NATIVE, Side, client, git, in_process, inet
from stage import DEADLINE, DOORS, BenchmarkError, Service, Stage

#: How many at once; more programs than that would measure the machine's memory.
LEVELS, MOST_PROGRAMS = (1, 10, 100, 500), 100
#: Connections of a way until the next one has its turn; those who start Breezy or git
#: for each are slower, and have fewer.
TURN, SLOWER = 250, 25
#: Turns until a service has what it needs.
SETTLED = 4
#: MiB that a process may have more after that, because an allocator does not give all
#: back at once; a leak of 100 bytes by connection is more, after 100,000.
GROWTH = 4.0
#: Descriptors that the service has for each spare worker, of which there are more
#: for a while when many connections come.
_PER_SPARE = 2
KINDS = ("service MiB", "zygote MiB", "service descriptors", "zygote descriptors")


class Crowd:
    """Connections of a side that are driven together.

    :ivar times: milliseconds to the first byte, of each.
    :ivar failures: how often which line.
    """

    def __init__(self, side: Side):
        self.side = side
        self._selector = selectors.DefaultSelector()
        self._left = 0
        self.times: list[float] = []
        self.failures: Counter[str] = Counter()

    def burst(self, count: int) -> float:
        """*count* at once, held; milliseconds until all had their answers."""
        held: list[Connection] = []
        took = self._drive(count, count, held)
        for each in held:
            each.hang_up()
        for each in held:
            self._try(each.finish)
        return took

    def loop(self, count: int, clients: int) -> float:
        """*count* in a closed loop; connections per second."""
        return count * 1000 / self._drive(count, clients, None)

    def _drive(self, count: int, at_once: int, held: list[Connection] | None) -> float:
        self._left, self._held = count, held
        began = time.perf_counter()
        for _ in range(min(at_once, count)):
            self._begin()
        while waiting := self._selector.get_map():
            ready = self._selector.select(DEADLINE)
            if not ready:
                raise BenchmarkError(f"{self.side.name}: {len(waiting)} hang")
            for key, _ in ready:
                self._selector.unregister(key.fd)
                made, answered = key.data
                if self._try(self._step, made, answered):
                    made.close()
                    self._begin()
        return (time.perf_counter() - began) * 1000

    def _try(self, work, *how: object) -> bool:
        """Do it; whether that failed."""
        try:
            work(*how)
        except (BenchmarkError, OSError) as error:
            self.failures[str(error)] += 1
            return True
        return False

    def _begin(self) -> None:
        while self._left:
            self._left -= 1
            if not self._try(lambda: self._watch(self.side.start(), False)):
                return

    def _watch(self, made: Connection, answered: bool) -> None:
        key = (made, answered)
        self._selector.register(made.descriptor, selectors.EVENT_READ, key)

    def _step(self, made: Connection, answered: bool) -> None:
        if answered:
            if made.ended():
                self._begin()
                return
        elif made.hear():
            answered = True
            self.times.append(made.took)
            if self._held is not None:
                self._held.append(made)
                return
            made.hang_up()
        self._watch(made, answered)


def bursts(stage: Stage, result: Result, repeat: int, most: int) -> None:
    """Measure the bursts."""
    with stage.service(max_workers=0) as service:
        sides = [in_process(service), inet(stage)]
        sides += [client(stage, service, NATIVE, door) for door in DOORS]
        crowds = {
            (side.name, count): Crowd(side)
            for count in LEVELS
            for side in sides
            if count <= (most if side.name == IN_PROCESS else min(most, MOST_PROGRAMS))
        }
        whole: dict[tuple[str, int], list[float]] = {way: [] for way in crowds}
        for _ in range(repeat):
            for way, crowd in crowds.items():
                service.settle()
                whole[way].append(crowd.burst(way[1]))
        if faults := service.settle()["totals"]["faults"]:
            result.failures.append(f"the service logged {faults} faults")
    for title, found in (
        ("ms to the first byte", {way: crowds[way].times for way in crowds}),
        ("ms until all are answered", whole),
    ):
        named = {f"{way}, {n} at once": x for (way, n), x in found.items() if x}
        result.figures(title, named)
    for (way, count), crowd in crowds.items():
        for line, n in crowd.failures.items():
            result.failures.append(f"{count} at once, {way}: {n} x {line}")


def look(service: Service) -> list[float]:
    """What the service has of each of `KINDS`, at rest."""
    status = service.settle()
    own, zygote = service.pid, status["zygote"]
    kept = descriptors(own) - _PER_SPARE * status["workers"]["spare"]
    return [private(own), private(zygote), float(kept), float(descriptors(zygote))]


def loops(stage: Stage, result: Result, connections: int, clients: int) -> None:
    """Measure the closed loops."""
    with stage.service("loop") as one, stage.service("loop-native") as other:
        crowds = [Crowd(in_process(one))]
        crowds += [Crowd(client(stage, other, NATIVE, door)) for door in DOORS]
        crowds += [Crowd(side) for side in (*git(stage), inet(stage))]
        rates: dict[str, list[float]] = {each.side.name: [] for each in crowds}
        seen: dict[str, list[list[float]]] = {}
        for _ in range(max(1, connections // TURN)):
            for each in crowds:
                service = each.side.service
                count = min(TURN if service else SLOWER, connections)
                rates[each.side.name].append(each.loop(count, clients))
                if service is not None:
                    seen.setdefault(each.side.name, []).append(look(service))
    title = f"connections per second, {clients} clients in a closed loop"
    result.figures(title, rates)
    result.figures(
        "ms to the first byte", {x.side.name: x.times for x in crowds if x.times}
    )
    for each in crowds:
        for line, n in each.failures.items():
            result.failures.append(f"{each.side.name}: {n} x {line}")
    rows = []
    for name, had in seen.items():
        result.target(f"connections per second, {name}", rates[name], 250, "a second")
        first, last = had[min(SETTLED, len(had)) - 1], had[-1]
        rows.append([name, *(f"{a:.1f} -> {b:.1f}" for a, b in zip(first, last))])
        for kind, a, b in zip(KINDS, first, last):
            if b > a + (GROWTH if kind.endswith("MiB") else 0):
                result.failures.append(f"{name}: {kind}: {a:.1f}, later {b:.1f}")
    result.table(["settled -> at the end", *KINDS], rows)


def measure(stage: Stage, chosen: argparse.Namespace) -> Result:
    result = Result()
    bursts(stage, result, chosen.repeat, chosen.at_most)
    loops(stage, result, chosen.connections, chosen.clients)
    return result


if __name__ == "__main__":
    parser = arguments(__doc__, 3, "bursts of each size")
    add_number(parser, "at-most", 500, "most connections in a burst")
    add_number(parser, "connections", 3000, "connections each way in the closed loop")
    add_number(parser, "clients", 8, "clients in it")
    sys.exit(run("concurrency", parser, measure))
