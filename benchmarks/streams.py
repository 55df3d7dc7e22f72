# SPDX-License-Identifier: GPL-2.0-or-later

"""What a clone costs: the bytes and the CPU of its stream, and ``brz branch`` whole.

Each clone is made by a new ``brz serve --inet``, by a worker that sends revisions in
Breezy's order, and by one that sends each block once. The repository is real history
where that is there (tests/realhistory.py), else one that history.py creates.
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import breezy
import breezy.bzr
import history
import kept
from accounts import cpu_of
from runner import Result, in_rounds, options, ratios, run
from sshstage import SshServer
from stage import PLUGIN, USER, BenchmarkError, Stage
from warm import BRANCH, NAME, SAME_ORDER, Server, process, requests_of, worker

sys.path.insert(0, os.path.join(PLUGIN, "tests"))

from realhistory import archive

PROCESS, BREEZY, BLOCKS = "brz serve --inet", "Breezy's order", "each block once"


class Clone(NamedTuple):
    """What the stream of a clone costs the server: seconds of CPU, bytes, MiB."""

    cpu: float
    size: int
    peak: float


def peak_of(pid: int) -> float:
    """The most memory that a process has had, in MiB."""
    with open(f"/proc/{pid}/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return int(lines["VmHWM"].split()[0]) / 1024


def stream(start: Callable[[], Server], path: str) -> Clone:
    """Have a server make the stream of the whole branch *path*."""
    server = start()
    try:
        before = 0.0 if server.is_program else cpu_of(server.pid)
        ((_, body),) = [server.ask(each) for each in requests_of(path)[BRANCH]]
        if not body:
            raise BenchmarkError("no stream has come")
        return Clone(cpu_of(server.pid) - before, len(body), peak_of(server.pid))
    finally:
        server.close()


def size_of(path: str, *folders: str) -> int:
    """The bytes of the files of a branch's repository in *folders*."""
    place = os.path.join(path, ".bzr", "repository")
    return sum(
        os.path.getsize(os.path.join(place, folder, name))
        for folder in folders
        for name in os.listdir(os.path.join(place, folder))
    )


def measure_streams(stage: Stage, result: Result, path: str, repeat: int) -> None:
    """Compare the streams of the whole branch *path*."""
    services = {
        name: stage.service(order, warm_repositories=0, stream_order=order)
        for name, order in ((BREEZY, "breezy"), (BLOCKS, "blocks"))
    }
    for each in services.values():
        each.environ.update(SAME_ORDER)
    with services[BREEZY], services[BLOCKS]:

        def once(start: Callable[[], Server]) -> Clone:
            for each in services.values():
                each.settle()
            return stream(start, path)

        starts = {PROCESS: functools.partial(process, stage)}
        starts |= {x: functools.partial(worker, services[x]) for x in services}
        ways = {x: functools.partial(once, starts[x]) for x in starts}
        found = in_rounds(ways, repeat, warm=1)
    cpu = {x: [each.cpu for each in found[x]] for x in found}
    size = {x: [each.size / 1e6 for each in found[x]] for x in found}
    peak = {x: [each.peak for each in found[x]] for x in found}
    result.figures("CPU seconds of the server, a whole clone", cpu, PROCESS)
    result.figures("MB on the wire, a whole clone", size, PROCESS)
    result.figures("MiB, most memory of the server", peak)
    packs, whole = size_of(path, "packs"), size_of(path, "packs", "indices")
    result.text += f"the pack has {packs / 1e6:.2f} MB, "
    result.text += f"with its indices {whole / 1e6:.2f} MB\n\n"
    each = [1e6 * x / whole for x in size[BLOCKS]]
    figure = "bytes of a clone, of the pack and its indices"
    result.target(figure, each, 1.1, at_most=True, exact=True)
    part = ratios(cpu[BLOCKS], cpu[PROCESS])
    result.target("CPU of a clone, of brz serve --inet", part, 1 / 3, at_most=True)
    more = [a - b for a, b in zip(peak[BLOCKS], peak[BREEZY], strict=True)]
    result.target("more memory than in Breezy's order", more, 0, "MiB", at_most=True)


def measure_branches(stage: Stage, result: Result, path: str, repeat: int) -> None:
    """Compare ``brz branch`` of *path* through lp-serve-ssh, and what it leaves."""
    packs: dict[str, int] = {}
    packed: dict[str, int] = {}
    services = {
        name: stage.service(f"ssh-{order}", stream_order=order)
        for name, order in ((BREEZY, "breezy"), (BLOCKS, "blocks"))
    }
    with (
        services[BREEZY] as breezys,
        services[BLOCKS] as blocks,
        SshServer(stage, "breezy", breezys.environ) as one,
        SshServer(stage, "blocks", blocks.environ) as other,
    ):
        servers = {BREEZY: one, BLOCKS: other}

        def once(name: str) -> float:
            place = os.path.join(stage.path, "clone")
            shutil.rmtree(place, ignore_errors=True)
            took = branch(stage, servers[name], place)
            packs[name] = size_of(place, "packs")
            if name not in packed:
                words = [*stage.brz, "pack", place]
                subprocess.run(words, check=True, env=stage.environ("client"))
                packed[name] = size_of(place, "packs")
            return took

        ways = {name: functools.partial(once, name) for name in servers}
        seconds = in_rounds(ways, repeat, warm=1)
    result.figures("seconds of brz branch, through lp-serve-ssh", seconds, BREEZY)
    sooner = ratios(seconds[BREEZY], seconds[BLOCKS])
    result.target("brz branch sooner than in Breezy's order", sooner, 1.5)
    for title, sizes, bound in (
        ("pack of the clone, of that in Breezy's order", packs, 1.1),
        ("the same after brz pack", packed, 1.01),
    ):
        each = [sizes[BLOCKS] / sizes[BREEZY]]
        result.target(title, each, bound, at_most=True, exact=True)


def branch(stage: Stage, server: SshServer, place: str) -> float:
    """Run ``brz branch`` to *place*; how many seconds it took."""
    environ = stage.environ("client")
    *settings, _ = server.ssh()
    program = os.path.join(stage.path, "ssh-" + str(server.port))
    with open(program, "w") as file:
        file.write(f'#!/bin/sh\nexec ssh {" ".join(settings)} "$@"\n')
    os.chmod(program, 0o700)
    environ |= {"BZR_SSH": program, "BRZ_SSH": program}
    url = f"bzr+ssh://{USER}@127.0.0.1/branch"
    began = time.perf_counter()
    words = [*stage.brz, "branch", "--no-tree", "--quiet", url, place]
    done = subprocess.run(words, env=environ, capture_output=True, text=True)
    if done.returncode:
        raise BenchmarkError(f"brz branch: {done.stderr}")
    return time.perf_counter() - began


def measure(stage: Stage, chosen: argparse.Namespace) -> Result:
    place = os.path.join(stage.root, NAME.decode().strip("/"))
    if os.path.exists(archive(chosen.history)):
        shutil.unpack_archive(archive(chosen.history), place)
    else:
        made = history.cached(chosen.revisions, chosen.files)
        shutil.copytree(made, place)
    result = Result()
    measure_streams(stage, result, place, chosen.repeat)
    measure_branches(stage, result, place, chosen.branches)
    kept.measure(stage, result, place, chosen.repeat)
    return result


if __name__ == "__main__":
    parser = options(
        __doc__,
        repeat=(10, "clones of each kind"),
        branches=(6, "runs of brz branch of each kind"),
        revisions=(30_000, "revisions of the repository that is created"),
        files=(5_000, "its files"),
    )
    parser.add_argument(
        "--history", default="breezy", help="breezy, loggerhead, or none: create one"
    )
    with breezy.initialize():
        sys.exit(run(parser, measure))
