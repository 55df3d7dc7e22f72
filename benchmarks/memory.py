# SPDX-License-Identifier: GPL-2.0-or-later

"""The memory of an idle connection, and whether many hold up the next one.

Memory is the proportional set size (PSS) of all processes, where a page that N
processes share counts 1/N for each: what the connections add to it, by connection.
What the kernel keeps for them (page tables, buffers, kernel stacks) is in no PSS. A
lpserve without connections is not free either, so that is shown, too.

While they are open, new connections are made by this process: they should take no
longer than before. Each case has a service of its own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from accounts import pss
from connections import (
    Connection,
    Program,
    SocketConnection,
    hold,
    say_hello,
)
from runner import Result, add_number, arguments, median, ratios, run
from sides import NATIVE, PYTHON, Side, client, git, inet
from stage import DOORS, SOCKET, Service, Stage, children_of


@dataclass
class Weight:
    """MiB that connections take.

    :ivar pss, clients: of each, with its client, and of it the client.
    :ivar empty: of the service without connections.
    :ivar quiet, meanwhile: ms to the first byte of new ones before, and with them open.
    """

    pss: float
    clients: float
    empty: float
    quiet: list[float] = field(default_factory=list)
    meanwhile: list[float] = field(default_factory=list)


def new_ones(service: Service, count: int, busy: int) -> list[float]:
    """Milliseconds to the first byte of *count* new connections; *busy* are open."""
    times = []
    for number in range(-3, count):
        service.wait_for_spares(busy)
        took = say_hello(lambda: SocketConnection(service)).took
        if number >= 0:
            times.append(took)
    service.wait_for_spares(busy)
    return times


def weigh(
    service: Service | None, start: Callable[[], Connection], count: int, new: int = 0
) -> Weight:
    """What *count* idle connections take.

    :param new: how many new ones are made before and meanwhile, if there is a service.
    """

    def served(busy: int) -> float:
        if service is None:
            return 0.0
        service.wait_for_spares(busy)
        return pss([service.pid, *service.children()])

    quiet = new_ones(service, new, 0) if service is not None and new else []
    empty = served(0)
    with hold(start, count) as held:
        servers = served(count) - empty
        pids = [each.pid for each in held if isinstance(each, Program)]
        # A shell may not have become what it started.
        clients = pss([*pids, *children_of(pids)]) / count if pids else 0.0
        found = Weight(servers / count + clients, clients, empty, quiet)
        if quiet:
            found.meanwhile = new_ones(service, new, count)
        return found


def measure(stage: Stage, chosen: argparse.Namespace) -> Result:
    found: dict[tuple[str, int], Weight] = {}
    result = Result()

    def add(side: Side, count: int) -> None:
        weight = weigh(side.service, side.start, count, chosen.repeat)
        found[side.name, count] = weight

    few = min(100, chosen.connections)
    for kind, door, count in (
        *((NATIVE, door, few) for door in DOORS),
        (PYTHON, SOCKET, few),
        *((NATIVE, door, chosen.connections) for door in DOORS),
    ):
        made = stage.service(max_workers=0, max_spare_workers=2)
        made.let_configuration_age()
        with made as service:
            add(client(stage, service, kind, door), count)
    for side in (*git(stage), inet(stage)):
        add(side, few)
    report(result, found)
    return result


def report(result: Result, found: dict[tuple[str, int], Weight]) -> None:
    """Write into *result* what was found, by side and number."""
    head = ["MiB of each idle connection", "open", "PSS", "of it the client"]
    head += ["ms of a new one: quiet", "meanwhile"]
    rows = []
    for (name, count), each in found.items():
        times = [median(x) if x else "" for x in (each.quiet, each.meanwhile)]
        rows.append([name, count, each.pss, each.clients, *times])
    result.table(head, rows)
    empty = median([each.empty for each in found.values() if each.empty])
    result.text += f"lpserve without connections: {empty:.1f} MiB\n\n"
    for (name, count), each in found.items():
        result.values[f"{name}, {count} open"] = vars(each)
        if name.startswith(NATIVE):
            what = f"{count} open, {name}"
            figure = f"PSS of an idle connection, {what}"
            result.target(figure, [each.pss], 3, "MiB", at_most=True, exact=True)
            slower = ratios(each.meanwhile, each.quiet)
            figure = f"first byte of a new one, {what}"
            result.target(figure, slower, 1.1, "x when quiet", at_most=True)


if __name__ == "__main__":
    parser = arguments(__doc__, 100, "new connections while the others are open")
    add_number(parser, "connections", 2000, "most that are open at once")
    sys.exit(run("memory", parser, measure))
