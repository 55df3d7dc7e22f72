# SPDX-License-Identifier: GPL-2.0-or-later

"""The time to the first byte of an answer, for each way to connect.

This process asks at the socket, with spare workers and without, and of a zygote with
500 MiB of additional private memory, because fork copies page tables. Programs are
started by ``sh -c PROGRAM``, as with sshd's forced command; the time of the shell
alone is measured, too.
"""

from __future__ import annotations

import argparse
import sys

from connections import NOTHING
from runner import Result, options, ratios, run
from sides import (
    GIT,
    IN_PROCESS,
    INET,
    NATIVE,
    PYTHON,
    client,
    first_bytes,
    git,
    in_process,
    inet,
    program,
)
from stage import DOORS, HELLO, SOCKET, Service, Stage

SHELL = "sh -c 'printf ...'"
FORKED, LARGE = f"{IN_PROCESS}, no spare worker", f"{IN_PROCESS}, large zygote"
#: A plug-in. A heap of Python objects has no huge pages either.
_PLUGIN = """\
'''Takes memory.'''
import mmap
kept = mmap.mmap(-1, 500 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
kept.madvise(mmap.MADV_NOHUGEPAGE)
for start in range(0, len(kept), mmap.PAGESIZE):
    kept[start] = 1
"""


def large(stage: Stage, name: str, **settings: object) -> Service:
    """A service whose zygote has 500 MiB more."""
    made = stage.service(name, **settings)
    made.add_plugin("larger", _PLUGIN)
    return made


def measure(stage: Stage, chosen: argparse.Namespace) -> Result:
    with (
        stage.service("spare") as spare,
        stage.service("forked", spare_workers=0) as forked,
        large(stage, "large") as large_spare,
        large(stage, "large-forked", spare_workers=0) as large_forked,
    ):
        sides = [in_process(spare), in_process(forked, FORKED)]
        sides += [in_process(large_spare, LARGE)]
        sides += [in_process(large_forked, f"{LARGE}, no spare worker")]
        for kind in (NATIVE, PYTHON):
            sides += [client(stage, spare, kind, door) for door in DOORS]
        words = ["printf", HELLO.decode().replace("\x01", r"\001")]
        shell = program(stage, SHELL, words, greeting=NOTHING)
        sides += [*git(stage), shell, inet(stage)]
        times = first_bytes(sides, chosen.repeat)
    result = Result()
    result.figures("ms to the first byte", times, INET)
    for side, most, less in (
        (IN_PROCESS, 1, 150),
        *((f"{PYTHON}, {door}", 20, 10) for door in DOORS),
    ):
        what = f"first byte, {side}"
        result.target(what, times[side], most, "ms", at_most=True)
        result.target(f"{what}, than brz", ratios(times[INET], times[side]), less)
    for side, base, most in (
        (f"{NATIVE}, {SOCKET}", GIT, 1.3),
        (LARGE, IN_PROCESS, 1.2),
    ):
        if base in times:
            more = ratios(times[side], times[base])
            result.target(f"first byte, {side}", more, most, f"x {base}", at_most=True)
    return result


if __name__ == "__main__":
    parser = options(__doc__, repeat=(100, "connections each way"))
    sys.exit(run(parser, measure))
