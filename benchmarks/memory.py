# SPDX-License-Identifier: GPL-2.0-or-later

"""The memory of an idle connection, and whether many hold up the next one.

Memory is the proportional set size (PSS) of all processes, where a page that N
processes share counts 1/N for each: what the connections add to it, by connection.
What the kernel keeps for them (page tables, buffers, kernel stacks) is in no PSS; it
is in how much less memory the machine has available, which is shown beside it. A
lpserve without connections is not free either, so that is shown, too.

While they are open, new connections are made by this process: they should take no
longer than before. Each case has a service of its own.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

from accounts import available, pss
from common import arguments, numbers, run
from connections import DOORS, Connection, begin, finish_all, hold, say_hello
from figures import median, ms, summary, table, target
from programs import Program
from sides import CHG, IN_PROCESS, NATIVE, PYTHON, client, in_process, inet, others
from stage import BenchmarkError, Service, Stage

#: MiB that have to stay available; a side that would take more is left out.
RESERVE = 3000.0


def descendants(pids: list[int]) -> list[int]:
    """*pids* and their children: a shell may not have become what it started."""
    found = list(pids)
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent in pids:
            found.append(int(name))
    return found


def handshakes(service: Service, door: str, count: int) -> list[float]:
    """How long new connections take, in seconds."""
    times = []
    alive = len(service.children())
    for number in range(-3, count):
        # Until the spare worker that was taken is back.
        service.wait_for_children(alive)
        took = say_hello(lambda: begin(service, door)).took
        if number >= 0:
            times.append(took)
    return times


def weigh(
    service: Service | None,
    door: str,
    start: Callable[[], Connection],
    count: int,
    new: int,
) -> dict[str, Any]:
    """What *count* idle connections take.

    :param new: how many new ones are made meanwhile, if there is a service.
    """
    empty = quiet = 0.0
    if service is not None:
        service.settle()
        quiet = median(handshakes(service, door, new))
        service.settle()
        empty = pss([service.pid, *service.children()])
    left = available()
    began = os.times().elapsed
    held = hold(start, count)
    try:
        took = os.times().elapsed - began
        pids = [each.pid for each in held if isinstance(each, Program)]
        clients = pss(descendants(pids)) if pids else 0.0
        servers = 0.0
        if service is not None:
            service.wait_for_children(1 + service.spares + count)
            servers = pss([service.pid, *service.children()]) - empty
            if pids:  # pages of one file may be shared between both
                clients = pss(descendants(pids))
        found = {
            "count": count,
            "pss": (servers + clients) / count,
            "clients": clients / count,
            "taken": (left - available()) / count,
            "opening": took / count,
            "empty": empty,
        }
        if service is not None:
            times = handshakes(service, door, new)
            found |= {"handshake": summary(times), "quiet_median": quiet}
    finally:
        finish_all(held)
    return found


def measure(stage: Stage, chosen: argparse.Namespace) -> dict[str, Any]:
    figures: dict[str, list[dict[str, Any]]] = {}
    failures: list[str] = []

    def add(name: str, count: int, *how: Any) -> None:
        before = figures.setdefault(name, [])
        if before and available() - before[-1]["taken"] * count < RESERVE:
            failures.append(f"{name}: no memory for {count}")
            return
        try:
            before.append(weigh(*how, count, chosen.repeat))
        except (BenchmarkError, OSError) as error:
            failures.append(f"{name}, {count} connections: {error}")
        print(f"{name}, {count} connections: done", file=sys.stderr)

    for count in chosen.connections:
        for kind in (IN_PROCESS, NATIVE, PYTHON):
            for door in DOORS:
                with stage.service(max_workers=0, max_spare_workers=2) as service:
                    if kind == IN_PROCESS:
                        side = in_process(service, door)
                    else:
                        side = client(stage, service, kind, door)
                    add(side.name, count, service, door, side.start)
    with others(stage) as compared:
        # What chg's daemon has forked for a connection is no child of the client's.
        for side in [*(each for each in compared if each.name != CHG), inet(stage)]:
            add(side.name, min(100, *chosen.connections), None, "", side.start)
    return report(figures, failures)


def report(
    figures: dict[str, list[dict[str, Any]]], failures: list[str]
) -> dict[str, Any]:
    """The result, as `common.run` takes it."""
    rows = []
    for name, found in figures.items():
        for each in found:
            cells = [f"{each[key]:.2f}" for key in ("pss", "clients", "taken")]
            cells.append(ms(each["opening"]))
            if "handshake" in each:
                cells += [
                    ms(each["quiet_median"]),
                    ms(each["handshake"]["median"]),
                    ms(each["handshake"]["p99"]),
                ]
            rows.append([name, each["count"], *cells])
    head = ["MiB of each idle connection", "open", "PSS", "of it the client"]
    head += ["less available", "ms to open", "new one: quiet", "meanwhile", "p99"]
    text = table(head, [[*row, *[""] * (len(head) - len(row))] for row in rows])
    empty = [each["empty"] for found in figures.values() for each in found]
    text += f"\nlpserve without connections: {median(list(filter(None, empty))):.1f} "
    text += "MiB\n\n"
    targets = []
    for door in DOORS:
        for each in figures.get(f"{NATIVE}, {door}", ()):
            what = f"{each['count']} open, native client, {door}"
            found = each["pss"]
            targets.append(
                target(f"PSS of an idle connection, {what}", found, 3, "MiB", True)
            )
            slower = each["handshake"]["median"] / each["quiet_median"]
            figure = f"handshake of a new one, {what}"
            targets.append(target(figure, slower, 1.1, "x when quiet", True))
    return {
        "text": text,
        "unit": "MiB",
        "memory": figures,
        "failures": failures,
        "targets": targets,
    }


def main() -> int:
    parser = arguments(__doc__, 100, "new connections while the others are open")
    parser.add_argument(
        "--connections",
        type=numbers,
        default=[100, 2000],
        metavar="N,...",
        help="how many are open at once (default: 100,2000)",
    )
    return run("memory", parser, measure)


if __name__ == "__main__":
    sys.exit(main())
