# SPDX-License-Identifier: GPL-2.0-or-later

"""This checkout compared with another revision: is a connection as cheap as it was?

Both run interleaved, each with services of its own: the first byte in this process and
from the exec of the native client, the CPU of a connection, and the PSS of idle ones.
All say ``hello`` in the third version of the protocol, as Breezy's clients do. The
verdict is on the ratio of both in each round. If the confidence interval of its median
includes the allowed ratio, the machine is too noisy to tell.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import os
import subprocess
import sys
import tarfile

import runner
from accounts import PARTS, account, count
from connections import AS_MESSAGE, Connection, SocketConnection
from memory import Weight, weigh
from runner import Result, in_rounds, median, options, ratios, run, span
from sides import NATIVE, Side, client, first_bytes, in_process
from stage import PLUGIN, SOCKET, BenchmarkError, Service, Stage

BASE, NEW = "base", "new"
#: The ratio to the base that is allowed.
ALLOWED = 1.03
_SAID = {runner.REACHED: "no worse", runner.MISSED: "WORSE"}
#: Values of one figure, by `BASE` and `NEW`.
Pair = dict[str, list[float]]


def export(revision: str, directory: str) -> str:
    """Write the files of *revision* to *directory*; the directory.

    :raises BenchmarkError: if there is no such revision.
    """
    words = ["git", "-C", PLUGIN, "archive", "--format=tar", revision]
    done = subprocess.run(words, stdout=subprocess.PIPE)
    if done.returncode:
        raise BenchmarkError(f"git has no files of {revision}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as files:
        files.extractall(directory, filter="data")
    return directory


def measure(stage: Stage, chosen: argparse.Namespace) -> Result:
    Connection.usual = AS_MESSAGE
    plugins = {BASE: export(chosen.base, os.path.join(stage.path, BASE)), NEW: PLUGIN}
    found = times(stage, plugins, chosen.repeat * chosen.per_round)
    found |= cpu(stage, plugins, chosen)
    found |= memory(stage, plugins, min(6, chosen.repeat), chosen.connections)
    rows = []
    for name, values in found.items():
        new, base = values[NEW], values[BASE]
        more = ratios(new, base)
        said = runner.NOISY
        if len(more) >= runner.FEW:
            # Other load delays both alike, so the ratio is exact.
            said = runner.verdict(more, ALLOWED, at_most=True, exact=True)
        row = [name, len(more), median(base), median(new), f"{median(more):.3f}"]
        rows.append([*row, span(more, 3), _SAID.get(said, said)])
    result = Result()
    result.values = found
    head = ["medians", "rounds", f"base ({chosen.base})", "new", "ratio"]
    result.table([*head, "its interval", ""], rows)
    return result


def native(stage: Stage, name: str, service: Service) -> Side:
    """The native client of *service*, called *name*."""
    return Side(name, client(stage, service, NATIVE, SOCKET).start, service)


def times(stage: Stage, plugins: dict[str, str], repeat: int) -> dict[str, Pair]:
    """Milliseconds to the first byte."""
    with contextlib.ExitStack() as stack:
        services = {
            name: stack.enter_context(stage.service(name, plugin))
            for name, plugin in plugins.items()
        }
        own = [in_process(service, name) for name, service in services.items()]
        clients = [native(stage, *each) for each in services.items()]
        return {
            "first byte, in process, ms": first_bytes(own, repeat),
            "first byte, native client, ms": first_bytes(clients, repeat),
        }


def cpu(
    stage: Stage, plugins: dict[str, str], chosen: argparse.Namespace
) -> dict[str, Pair]:
    """CPU milliseconds of a connection, of all its processes and of each."""
    with contextlib.ExitStack() as stack:
        accounts = []
        for name, plugin in plugins.items():
            service = stage.service(f"cpu-{name}", plugin, max_spare_workers=2)
            side = functools.partial(native, stage, name)
            accounts.append(account(stack, service, side))
        count(accounts, chosen.repeat, chosen.per_round)
        figure = "CPU of a connection, native client, ms"
        found = {figure: {each.side.name: each.totals() for each in accounts}}
        for part in PARTS:
            found[f"  of which {part}"] = {x.side.name: x.parts[part] for x in accounts}
        return found


def memory(
    stage: Stage, plugins: dict[str, str], rounds: int, connections: int
) -> dict[str, Pair]:
    """MiB of PSS: of an idle connection, and of a service without any."""

    def once(name: str) -> Weight:
        made = stage.service(f"memory-{name}", plugins[name], max_spare_workers=2)
        made.let_configuration_age()
        with made as service:
            start = functools.partial(SocketConnection, service)
            return weigh(service, start, connections)

    ways = {name: functools.partial(once, name) for name in plugins}
    found = in_rounds(ways, rounds, warm=0)
    return {
        title: {name: [getattr(x, kind) for x in found[name]] for name in found}
        for title, kind in (
            ("PSS of an idle connection, MiB", "pss"),
            ("PSS without any, MiB", "empty"),
        )
    }


if __name__ == "__main__":
    parser = options(
        __doc__,
        repeat=(15, "rounds"),
        per_round=(15, "connections of each side in a round"),
        connections=(100, "idle connections that are weighed"),
    )
    parser.add_argument("base", metavar="REVISION", help="what it is compared with")
    sys.exit(run(parser, measure))
