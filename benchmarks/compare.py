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
import contextlib
import functools
import os
import subprocess
import sys
import tarfile

from accounts import account, count
from connections import AS_MESSAGE, Connection, SocketConnection
from memory import weigh
from runner import (
    FEW,
    MISSED,
    NOISY,
    REACHED,
    Result,
    add_number,
    arguments,
    in_turn,
    median,
    ratios,
    run,
    span,
    verdict,
)
from sides import NATIVE, Side, client, first_bytes, in_process
from stage import PLUGIN, SOCKET, BenchmarkError, Service, Stage

BASE, NEW = "base", "new"
#: How much more than the base a figure may be: a ratio.
ALLOWED = 1.03
_SAID = {REACHED: "no worse", MISSED: "WORSE"}


def export(revision: str, directory: str) -> str:
    """Write the files of *revision* to *directory*; the directory.

    :raises BenchmarkError: if there is no such revision.
    """
    os.mkdir(directory)
    words = ["git", "-C", PLUGIN, "archive", "--format=tar", revision]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as archive:
        try:
            with tarfile.open(fileobj=archive.stdout, mode="r|") as files:
                files.extractall(directory, filter="data")
        except tarfile.TarError:
            pass  # git has said why
    if archive.returncode:
        raise BenchmarkError(f"git has no files of {revision}")
    return directory


def measure(stage: Stage, chosen: argparse.Namespace) -> Result:
    Connection.usual = AS_MESSAGE
    plugins = {BASE: export(chosen.base, os.path.join(stage.path, BASE)), NEW: PLUGIN}
    found = times(stage, plugins, chosen.repeat * chosen.per_round)
    found["CPU of a connection, native client, ms"] = cpu(stage, plugins, chosen)
    found |= memory(stage, plugins, min(6, chosen.repeat), chosen.connections)
    result = Result()
    result.values = found
    head = ["medians", "rounds", f"base ({chosen.base})", "new", "ratio"]
    rows = []
    for name, values in found.items():
        new, base = values[NEW], values[BASE]
        # Other programs delay both alike.
        more = ratios(new, base)
        said = NOISY
        if len(more) >= FEW:
            said = verdict(more, ALLOWED, at_most=True, exact=True)
        row = [name, len(more), median(base), median(new), f"{median(more):.3f}"]
        rows.append([*row, span(more, 3), _SAID.get(said, said)])
    result.table([*head, "its interval", ""], rows)
    return result


def times(
    stage: Stage, plugins: dict[str, str], repeat: int
) -> dict[str, dict[str, list[float]]]:
    """Milliseconds to the first byte."""
    found = {}
    with (
        stage.service(BASE, plugins[BASE]) as base,
        stage.service(NEW, plugins[NEW]) as new,
    ):
        services = {BASE: base, NEW: new}
        sides = [in_process(service, name) for name, service in services.items()]
        found["first byte, in process, ms"] = first_bytes(sides, repeat)
        sides = [native(stage, service, name) for name, service in services.items()]
        found["first byte, native client, ms"] = first_bytes(sides, repeat)
    return found


def native(stage: Stage, service: Service, name: str) -> Side:
    """The native client of one of both."""
    return Side(name, client(stage, service, NATIVE, SOCKET).start, service)


def cpu(
    stage: Stage, plugins: dict[str, str], chosen: argparse.Namespace
) -> dict[str, list[float]]:
    """CPU milliseconds of a connection, of all its processes."""
    with contextlib.ExitStack() as stack:
        accounts = []
        for name, plugin in plugins.items():
            service = stage.service(f"cpu-{name}", plugin, max_spare_workers=2)
            accounts.append(
                account(
                    stack, service, lambda made, name=name: native(stage, made, name)
                )
            )
        count(accounts, chosen.repeat, chosen.per_round)
        return {each.side.name: each.totals() for each in accounts}


def memory(
    stage: Stage, plugins: dict[str, str], rounds: int, connections: int
) -> dict[str, dict[str, list[float]]]:
    """MiB of PSS: of an idle connection, and without any."""
    idle: dict[str, list[float]] = {BASE: [], NEW: []}
    empty: dict[str, list[float]] = {BASE: [], NEW: []}
    for number, (name, _) in enumerate(in_turn(list(plugins), rounds, warm=0)):
        made = stage.service(f"memory-{number}", plugins[name], max_spare_workers=2)
        made.let_configuration_age()
        with made as service:
            start = functools.partial(SocketConnection, service)
            weight = weigh(service, start, connections)
            idle[name].append(weight.pss)
            empty[name].append(weight.empty)
    return {"PSS of an idle connection, MiB": idle, "PSS without any, MiB": empty}


if __name__ == "__main__":
    parser = arguments(__doc__, 15, "rounds")
    add_number(parser, "per-round", 15, "connections of each side in a round")
    add_number(parser, "connections", 100, "idle connections that are weighed")
    parser.add_argument("base", metavar="REVISION", help="what it is compared with")
    sys.exit(run("compare", parser, measure))
