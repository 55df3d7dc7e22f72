# SPDX-License-Identifier: GPL-2.0-or-later

"""This checkout beside another revision of it: is a connection as cheap as it was?

Both run in one go and in turn, each with services of its own: the first byte in
this process and from the exec of the native client, the CPU of a connection, and
the PSS of idle ones. All say ``hello`` as Breezy's clients would, in the third version
of the protocol. What counts is the ratio of the two in each round, the new one to
the base. Where the confidence interval of its median has the allowed ratio in it the
machine is too noisy to tell.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from typing import Any

from accounts import group, pss
from common import add_number, arguments, run
from connections import (
    AS_MESSAGE,
    DOORS,
    Connection,
    begin,
    finish_all,
    hold,
    say_hello,
)
from cpu import Account
from figures import median, table
from programs import Program
from sides import NATIVE, Side, client
from stage import PLUGIN, SOCKET, BenchmarkError, Service, Stage

BASE, NEW = "base", "new"
#: How much more than the base a figure may be: a ratio.
ALLOWED = 1.03
#: How likely the median of all rounds that could be is outside of the interval.
_OUTSIDE = 0.05


def export(revision: str, directory: str) -> str:
    """Write the files of *revision* to *directory*; the directory.

    :raises BenchmarkError: if there is no such revision.
    """
    os.mkdir(directory)
    words = ["git", "-C", PLUGIN, "archive", "--format=tar", revision]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as archive:
        assert archive.stdout is not None
        try:
            with tarfile.open(fileobj=archive.stdout, mode="r|") as files:
                files.extractall(directory, filter="data")
        except tarfile.TarError:
            pass  # git has said why
    if archive.returncode:
        raise BenchmarkError(f"git has no files of {revision}")
    return directory


class Rounds:
    """What is measured of both in each round.

    :ivar unit: of the figures.
    :ivar values: by side, one for each round.
    """

    def __init__(self, unit: str):
        self.unit = unit
        self.values: dict[str, list[float]] = {BASE: [], NEW: []}

    def ratios(self) -> list[float]:
        """New to base, of each round."""
        return [
            new / base
            for base, new in zip(self.values[BASE], self.values[NEW], strict=True)
        ]


def interval(values: list[float]) -> tuple[float, float]:
    """The confidence interval of the median of what *values* are a sample of.

    From two of the sorted values, which needs no distribution: as many of a sample
    are below the median as there are heads among tosses of a coin.
    """
    ordered, number = sorted(values), len(values)
    outside = 0.0
    for left_out in range(number // 2):
        outside += math.comb(number, left_out) / 2 ** (number - 1)
        if outside > _OUTSIDE:
            return ordered[max(0, left_out - 1)], ordered[-max(1, left_out)]
    return ordered[0], ordered[-1]


def verdict(ratios: list[float]) -> str:
    """What the ratios of a figure say."""
    low, high = interval(ratios)
    if high <= ALLOWED:
        return "no worse"
    return "WORSE" if low > ALLOWED else "too noisy to tell"


def alternately(number: int) -> tuple[str, str]:
    """Both sides, each of them first in every other round."""
    return (BASE, NEW) if number % 2 else (NEW, BASE)


def measure(stage: Stage, chosen: argparse.Namespace) -> dict[str, Any]:
    Connection.greeting = AS_MESSAGE
    plugins = {BASE: export(chosen.base, os.path.join(stage.path, BASE)), NEW: PLUGIN}
    found: dict[str, Rounds] = {}
    times(stage, plugins, chosen, found)
    cpu(stage, plugins, chosen, found)
    memory(stage, plugins, chosen, found)
    return report(found, chosen.base)


def times(
    stage: Stage,
    plugins: dict[str, str],
    chosen: argparse.Namespace,
    found: dict[str, Rounds],
) -> None:
    """Milliseconds to the first byte: the median of each round."""
    with (
        stage.service(BASE, plugin=plugins[BASE]) as base,
        stage.service(NEW, plugin=plugins[NEW]) as new,
    ):
        services = {BASE: base, NEW: new}

        def starts(side: str) -> dict[str, Callable[[], Any]]:
            service = services[side]
            made: dict[str, Callable[[], Any]] = {
                f"first byte, in process, {door}": lambda door=door: begin(  # type: ignore[misc]
                    service, door
                )
                for door in DOORS
            }
            made["first byte, native client from its exec"] = client(
                stage, service, NATIVE, SOCKET
            ).start
            return made

        ways = {side: starts(side) for side in services}
        for name in ways[NEW]:
            rounds = found[name] = Rounds("ms")
            for number in range(-1, chosen.repeat):
                for side in alternately(number):
                    took = []
                    for _ in range(chosen.per_round):
                        for service in services.values():
                            service.settle()
                        took.append(say_hello(ways[side][name]).took * 1000)
                    if number >= 0:
                        rounds.values[side].append(median(took))


def cpu(
    stage: Stage,
    plugins: dict[str, str],
    chosen: argparse.Namespace,
    found: dict[str, Rounds],
) -> None:
    """CPU milliseconds of a connection, of all its processes."""
    rounds = found["CPU of a connection, native client"] = Rounds("ms")
    with group("compare-base") as first, group("compare-new") as second:
        groups = {BASE: first, NEW: second}
        settings = {"max_spare_workers": 2}
        with (
            stage.service("cpu-base", plugins[BASE], **settings) as base,
            stage.service("cpu-new", plugins[NEW], **settings) as new,
        ):
            accounts = {}
            for name, service in ((BASE, base), (NEW, new)):
                counted = groups[name]
                if counted is not None:
                    counted.add([service.pid, *service.children()])
                side = client(stage, service, NATIVE, SOCKET)
                accounts[name] = Account(Side(name, side.start, service), counted)
            for number in range(-1, chosen.repeat):
                for name in alternately(number):
                    spent = one_account(accounts[name], chosen.per_round)
                    if number >= 0:
                        rounds.values[name].append(spent * 1000)


def one_account(account: Account, connections: int) -> float:
    """CPU seconds of a connection, on the average of so many."""
    service = account.side.service
    assert service is not None
    account.begin()
    for _ in range(connections):
        service.wait_for_children(1 + service.spares)
        program = say_hello(account.side.start)
        assert isinstance(program, Program)
        account.clients += program.cpu
    account.end(connections)
    return account.totals()[-1]


def memory(
    stage: Stage,
    plugins: dict[str, str],
    chosen: argparse.Namespace,
    found: dict[str, Rounds],
) -> None:
    """MiB of PSS: of an idle connection, and without any."""
    idle = found["PSS of an idle connection"] = Rounds("MiB")
    empty = found["PSS without connections"] = Rounds("MiB")
    for number in range(max(2, chosen.repeat // 5)):
        for name in alternately(number):
            service = stage.service(
                f"memory-{name}-{number}", plugins[name], max_spare_workers=2
            )
            service.let_configuration_age()
            with service:
                service.settle()
                alone = pss([service.pid, *service.children()])
                empty.values[name].append(alone)
                idle.values[name].append(weigh(service, alone, chosen.connections))


def weigh(service: Service, alone: float, count: int) -> float:
    """MiB that each of *count* idle connections adds to *alone*."""
    held = hold(lambda: begin(service, SOCKET), count)
    try:
        service.wait_for_children(1 + service.spares + count)
        return (pss([service.pid, *service.children()]) - alone) / count
    finally:
        finish_all(held)


def report(found: dict[str, Rounds], base: str) -> dict[str, Any]:
    """The result, as `common.run` takes it."""
    head = ["medians of the rounds", "rounds", f"base ({base})", "new"]
    head += ["ratio", "its interval", ""]
    rows = []
    for name, rounds in found.items():
        ratios = rounds.ratios()
        low, high = interval(ratios)
        rows.append(
            [
                f"{name}, {rounds.unit}",
                len(ratios),
                *(f"{median(rounds.values[side]):.2f}" for side in (BASE, NEW)),
                f"{median(ratios):.3f}",
                f"{low:.3f} to {high:.3f}",
                verdict(ratios),
            ]
        )
    return {
        "text": table(head, rows) + "\n",
        "rounds": {name: rounds.values for name, rounds in found.items()},
    }


def main() -> int:
    parser = arguments(__doc__, 15, "rounds")
    add_number(parser, "per-round", 15, "connections of each side in a round")
    add_number(parser, "connections", 100, "idle connections that are weighed")
    parser.add_argument("base", metavar="REVISION", help="what it is compared with")
    return run("compare", parser, measure)


if __name__ == "__main__":
    sys.exit(main())
