# SPDX-License-Identifier: GPL-2.0-or-later

"""Whether a large zygote makes a client wait: fork copies page tables.

Two services side by side, whose zygotes have 50 and 500 MiB more of private memory:
a plug-in allocates it when it is loaded, in small pages. With spare workers a client
should not notice; without any it waits for the fork. Beside it the bare fork of a
process of that size.
"""

from __future__ import annotations

import argparse
import mmap
import os
import sys
import time
from typing import Any

from common import arguments, numbers, run
from connections import DOORS, say_hello
from figures import median, ms, summary, table, target, times_table
from sides import Side, in_process, in_turn, inet
from stage import Service, Stage

#: The plug-in; huge pages would make it look better than a heap of Python's.
_PLUGIN = """\
'''Takes memory.'''
import mmap
kept = mmap.mmap(-1, {size}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
kept.madvise(mmap.MADV_NOHUGEPAGE)
for start in range(0, {size}, mmap.PAGESIZE):
    kept[start] = 1
"""
MIB = 1 << 20
KEYS = ("median", "p99", "min", "max")


def take(size: int) -> mmap.mmap:
    """Take *size* bytes, as the plug-in does."""
    found: dict[str, Any] = {}
    exec(_PLUGIN.format(size=size), found)
    return found["kept"]


def service(stage: Stage, mib: int, spares: int) -> Service:
    """A service whose processes have *mib* MiB more."""
    name = f"larger{mib}"
    place = os.path.join(stage.path, name)
    os.makedirs(place, exist_ok=True)
    with open(os.path.join(place, "__init__.py"), "w") as file:
        file.write(_PLUGIN.format(size=mib * MIB))
    made = stage.service(f"{name}-{spares}", spare_workers=spares)
    made.environ["BRZ_PLUGINS_AT"] += f":{name}@{place}"
    return made


def fork_times(mib: int, repeat: int) -> list[float]:
    """Seconds that fork takes of a process with *mib* MiB more."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        with os.fdopen(reader) as file:
            found = [float(line) for line in file]
        os.waitpid(child, 0)
        return found
    try:
        kept = take(mib * MIB)
        for _ in range(repeat):
            began = time.perf_counter()
            pid = os.fork()
            if not pid:
                os._exit(0)
            took = time.perf_counter() - began
            os.waitpid(pid, 0)
            os.write(writer, f"{took}\n".encode())
        kept.close()
    finally:
        os._exit(0)


def measure(stage: Stage, chosen: argparse.Namespace) -> dict[str, Any]:
    small, large = chosen.sizes
    times: dict[str, list[float]] = {}
    forks = {mib: fork_times(mib, chosen.repeat) for mib in (small, large)}
    with (
        service(stage, small, 2) as small_spare,
        service(stage, large, 2) as large_spare,
        service(stage, small, 0) as small_none,
        service(stage, large, 0) as large_none,
    ):
        sides: list[Side] = []
        for door in DOORS:
            for what, made in (
                (f"{small} MiB, spares", small_spare),
                (f"{large} MiB, spares", large_spare),
                (f"{small} MiB, no spares", small_none),
                (f"{large} MiB, no spares", large_none),
            ):
                sides.append(in_process(made, door, f"{door}, {what}"))
        sides.append(inet(stage))
        times = {side.name: [] for side in sides}
        for side, counts in in_turn(sides, chosen.repeat):
            took = say_hello(side.start).took
            if counts:
                times[side.name].append(took)
    text = times_table("ms to the first byte", times)
    rows = [
        [f"{mib} MiB", *(ms(summary(found)[key]) for key in KEYS)]
        for mib, found in forks.items()
    ]
    text += "\n" + table(["ms of a bare fork", *KEYS], rows)
    targets = []
    for door in DOORS:
        ratio = median(times[f"{door}, {large} MiB, spares"]) / median(
            times[f"{door}, {small} MiB, spares"]
        )
        figure = f"handshake with {large} MiB in the zygote, spares, {door}"
        targets.append(target(figure, ratio, 1.2, f"x that with {small} MiB", True))
    return {
        "text": text + "\n",
        "unit": "seconds",
        "ways": {name: summary(values) for name, values in times.items()},
        "forks": {str(mib): summary(values) for mib, values in forks.items()},
        "times": times,
        "targets": targets,
    }


def main() -> int:
    parser = arguments(__doc__, 50, "connections each way")
    parser.add_argument(
        "--sizes",
        type=numbers,
        default=[50, 500],
        metavar="SMALL,LARGE",
        help="MiB that the zygotes have more (default: 50,500)",
    )
    return run("fork_size", parser, measure)


if __name__ == "__main__":
    sys.exit(main())
