# SPDX-License-Identifier: GPL-2.0-or-later

"""The memory of an idle connection, and whether many hold up the next one.

Memory is the proportional set size (PSS) of all processes: a page that N processes
share counts 1/N for each. PSS does not include page tables, kernel stacks and buffers.
The figure is the growth of PSS divided by the number of connections. A service
without connections is measured, too.

While the connections are open, new ones are made: they should take no longer than
before. Each case has a service of its own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from accounts import pss
from connections import Connection, Program, SocketConnection, hold, say_hello
from runner import Result, in_rounds, median, options, ratios, run
from sides import NATIVE, PYTHON, Side, client, git, inet
from stage import DOORS, SOCKET, Service, Stage, children_of


@dataclass
class Weight:
    """What connections take.

    :ivar pss, clients: MiB of each connection with its client, and of the client.
    :ivar empty: MiB of the service without connections.
    :ivar quiet, meanwhile: ms to the first byte of new ones, before and while they
        are open.
    """

    pss: float
    clients: float
    empty: float
    quiet: list[float] = field(default_factory=list)
    meanwhile: list[float] = field(default_factory=list)


def new_ones(service: Service, count: int, busy: int) -> list[float]:
    """Milliseconds to the first byte of *count* new connections; *busy* are open."""

    def connect() -> float:
        service.wait_for_spares(busy)
        return say_hello(lambda: SocketConnection(service)).took

    return in_rounds({"": connect}, count, warm=3)[""]


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
        # Some shells fork the program, and some become it.
        clients = pss([*pids, *children_of(pids)]) / count if pids else 0.0
        found = Weight(servers / count + clients, clients, empty, quiet)
        if quiet:
            found.meanwhile = new_ones(service, new, count)
        return found


def measure(stage: Stage, chosen: argparse.Namespace) -> Result:
    found: dict[tuple[str, int], Weight] = {}

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
    return report(found)


def report(found: dict[tuple[str, int], Weight]) -> Result:
    """The result of what was found, by side and number."""
    result = Result()
    head = ["MiB of each idle connection", "open", "PSS", "of it the client"]
    head += ["ms of a new one: quiet", "meanwhile"]
    rows = []
    for (name, count), each in found.items():
        times = [median(x) if x else "" for x in (each.quiet, each.meanwhile)]
        rows.append([name, count, each.pss, each.clients, *times])
        result.values[f"{name}, {count} open"] = vars(each)
        if name.startswith(NATIVE):
            what = f"{count} open, {name}"
            figure = f"PSS of an idle connection, {what}"
            result.target(figure, [each.pss], 3, "MiB", at_most=True, exact=True)
            slower = ratios(each.meanwhile, each.quiet)
            figure = f"first byte of a new one, {what}"
            result.target(figure, slower, 1.1, "x when quiet", at_most=True)
    result.table(head, rows)
    empty = median([each.empty for each in found.values() if each.empty])
    result.text += f"lpserve without connections: {empty:.1f} MiB\n\n"
    return result


if __name__ == "__main__":
    parser = options(
        __doc__,
        repeat=(100, "new connections while the others are open"),
        connections=(2000, "most that are open at once"),
    )
    sys.exit(run(parser, measure))
