# SPDX-License-Identifier: GPL-2.0-or-later

"""Many connections at once: how long each waits, how many a second, what is left.

Bursts: many connections begin at once, and are held until all have their answers. Then
a closed loop: each of some clients says hello, reads the answer, hangs up, waits until
the worker has ended, and begins again. One thread drives all connections. After the
loops, the memory and descriptors of service and zygote must not have grown.
"""

from __future__ import annotations

import argparse
import functools
import selectors
import sys
import time

from accounts import descriptors, private
from connections import Connection
from runner import Result, in_rounds, options, run
from sides import IN_PROCESS, NATIVE, Side, client, git, in_process, inet
from stage import DEADLINE, DOORS, BenchmarkError, Service, Stage

#: Sizes of bursts; programs have bursts of MOST_PROGRAMS at most, to spare memory.
LEVELS, MOST_PROGRAMS = (1, 10, 100, 500), 100
#: Connections of a round of the loop, and of one of a side without a service.
ROUND, SLOWER = 250, 25
#: Rounds after which a service has what it needs.
SETTLED = 4
#: MiB by which both may grow after that, because malloc keeps some free memory. A
#: leak of 100 bytes for each of 100,000 connections exceeds it.
GROWTH = 4.0
#: Descriptors that the service has for each spare worker; their number varies.
_PER_SPARE = 2


class Crowd:
    """Connections of a side that are driven together.

    :ivar times: milliseconds to the first byte, of each connection.
    """

    def __init__(self, side: Side):
        self.side = side
        self.times: list[float] = []
        self._selector = selectors.DefaultSelector()

    def burst(self, count: int) -> float:
        """*count* at once; milliseconds until all have their answers."""
        held: list[Connection] = []
        took = self._drive(count, count, held)
        for each in held:
            each.hang_up()
        for each in held:
            each.finish()
        return took

    def loop(self, count: int, clients: int) -> float:
        """*count* in a closed loop of *clients*; connections per second."""
        return count * 1000 / self._drive(count, clients, None)

    def _drive(self, count: int, at_once: int, held: list[Connection] | None) -> float:
        """Make *count* connections; milliseconds.

        :param held: a list for those with an answer; None if these hang up.
        """
        began = time.perf_counter()
        left = count - min(at_once, count)
        for _ in range(count - left):
            self._watch(self.side.start(), False)
        while waiting := len(self._selector.get_map()):
            ready = self._selector.select(DEADLINE)
            if not ready:
                raise BenchmarkError(f"{self.side.name}: {waiting} hang")
            for key, _ in ready:
                self._selector.unregister(key.fd)
                made, answered = key.data
                if not (made.ended() if answered else made.hear()):
                    self._watch(made, answered)
                elif answered:
                    if left:
                        left -= 1
                        self._watch(self.side.start(), False)
                else:
                    self.times.append(made.took)
                    if held is None:
                        made.hang_up()
                        self._watch(made, True)
                    else:
                        held.append(made)
        return (time.perf_counter() - began) * 1000

    def _watch(self, made: Connection, answered: bool) -> None:
        key = (made, answered)
        self._selector.register(made.descriptor, selectors.EVENT_READ, key)


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

        def burst(crowd: Crowd, count: int) -> float:
            service.settle()
            return crowd.burst(count)

        ways = {
            f"{name}, {count} at once": functools.partial(burst, crowd, count)
            for (name, count), crowd in crowds.items()
        }
        whole = in_rounds(ways, repeat, warm=0)
        if faults := service.settle()["totals"]["faults"]:
            result.failures.append(f"the service logged {faults} faults")
    times = {way: crowd.times for way, crowd in zip(ways, crowds.values())}
    result.figures("ms to the first byte", times)
    result.figures("ms until all are answered", whole)


def kept(service: Service) -> tuple[float, int]:
    """Private MiB, and descriptors, of the service and its zygote at rest."""
    status = service.settle()
    pids = (service.pid, status["zygote"])
    spare = _PER_SPARE * status["workers"]["spare"]
    return sum(map(private, pids)), sum(map(descriptors, pids)) - spare


def loops(stage: Stage, result: Result, connections: int, clients: int) -> None:
    """Measure the closed loops."""
    with stage.service("loop") as one, stage.service("loop-native") as other:
        sides = [in_process(one), *git(stage), inet(stage)]
        sides[1:1] = [client(stage, other, NATIVE, door) for door in DOORS]
        crowds = {side.name: Crowd(side) for side in sides}
        seen: dict[str, list[tuple[float, int]]] = {
            x.name: [] for x in sides if x.service
        }

        def loop(crowd: Crowd) -> float:
            service = crowd.side.service
            count = min(ROUND if service else SLOWER, connections)
            rate = crowd.loop(count, clients)
            if service is not None:
                seen[crowd.side.name].append(kept(service))
            return rate

        ways = {name: functools.partial(loop, crowd) for name, crowd in crowds.items()}
        rates = in_rounds(ways, max(1, connections // ROUND), warm=0)
    title = f"connections per second, {clients} clients in a closed loop"
    result.figures(title, rates)
    times = {name: crowd.times for name, crowd in crowds.items()}
    result.figures("ms to the first byte", times)
    rows = []
    for name, had in seen.items():
        result.target(f"connections per second, {name}", rates[name], 250, "a second")
        (mib, count), (later, more) = had[min(SETTLED, len(had)) - 1], had[-1]
        rows.append([name, mib, later, count, more])
        if later > mib + GROWTH or more > count:
            result.failures.append(f"{name}: the service or zygote has grown")
    head = ["service and zygote", "settled: MiB", "at the end", "descriptors"]
    result.table([*head, "at the end"], rows)


def measure(stage: Stage, chosen: argparse.Namespace) -> Result:
    result = Result()
    bursts(stage, result, chosen.repeat, chosen.at_most)
    loops(stage, result, chosen.connections, chosen.clients)
    return result


if __name__ == "__main__":
    parser = options(
        __doc__,
        repeat=(3, "bursts of each size"),
        at_most=(500, "most connections in a burst"),
        connections=(3000, "connections each way in the closed loop"),
        clients=(8, "clients in it"),
    )
    sys.exit(run(parser, measure))
