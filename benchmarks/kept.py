# SPDX-License-Identifier: GPL-2.0-or-later

"""What kept streams save: clones that were asked for before, or are at the same time.

`streams.py` runs this. A clone is the stream of a whole branch, asked for through the
socket by a client that only reads.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from typing import NamedTuple

from accounts import cpu_of, private
from runner import Result, in_rounds, ratios
from stage import BenchmarkError, Service, Stage
from warm import BRANCH, Server, requests_of, worker

ANEW, FIRST, KEEPING, KEPT, TOGETHER = (
    "nothing is kept",
    "the first",
    "the second, which is kept",
    "one that is kept",
    "8 at once, in all",
)
GIT = "git upload-pack, a clone"
AT_ONCE = 8
#: Runs ``git upload-pack``, and writes the seconds of CPU that it took.
_TIMED = """
import os, resource, subprocess, sys
code = subprocess.call(["git", "upload-pack", *sys.argv[2:]])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
with open(sys.argv[1], "w") as file:
    file.write(str(used.ru_utime + used.ru_stime))
sys.exit(code)
"""


class Cost(NamedTuple):
    """Seconds of CPU of the server, seconds, bytes, and MiB that are its own."""

    cpu: float
    wall: float
    size: int
    memory: float


def clone(server: Server, path: str) -> Cost:
    """Ask for the stream of the branch *path*, and discard it."""
    (request,) = requests_of(path)[BRANCH]
    before, began = cpu_of(server.pid), time.perf_counter()
    size = server.discard(request)
    wall = time.perf_counter() - began
    return Cost(cpu_of(server.pid) - before, wall, size, private(server.pid))


class Clones:
    """Clones of one branch by the workers of two services.

    :param kept: the one that keeps streams.
    :param unkept: the one that keeps none.
    """

    def __init__(self, kept: Service, unkept: Service, path: str):
        self._kept, self._unkept, self._path = kept, unkept, path

    def _one(self, service: Service) -> Cost:
        for each in (self._kept, self._unkept):
            each.settle()
        server = worker(service)
        try:
            return clone(server, self._path)
        finally:
            server.close()

    def _change(self) -> None:
        """Have all streams be unknown: those of a repository with other files."""
        packs = os.path.join(self._path, ".bzr", "repository", "packs")
        for name in os.listdir(packs):
            os.utime(os.path.join(packs, name))

    def anew(self) -> Cost:
        """A clone where nothing is kept."""
        return self._one(self._unkept)

    def first(self) -> Cost:
        """A clone that nobody has asked for before."""
        self._change()
        return self._one(self._kept)

    def keeping(self) -> Cost:
        """The next one, which is kept."""
        self.first()
        return self._one(self._kept)

    def kept(self) -> Cost:
        """One that is kept."""
        self.keeping()
        return self._one(self._kept)

    def together(self) -> Cost:
        """`AT_ONCE` at the same time, of what nobody has asked for before."""
        self._change()
        self._kept.settle()
        servers = [worker(self._kept) for _ in range(AT_ONCE)]
        costs: list[Cost] = []
        threads = [
            threading.Thread(target=lambda each=each: costs.append(self._of(each)))
            for each in servers
        ]
        began = time.perf_counter()
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        wall = time.perf_counter() - began
        if len(costs) != AT_ONCE:
            raise BenchmarkError("a clone has failed")
        cpu, memory = sum(x.cpu for x in costs), max(x.memory for x in costs)
        return Cost(cpu, wall, costs[0].size, memory)

    def _of(self, server: Server) -> Cost:
        try:
            return clone(server, self._path)
        finally:
            server.close()


def measure(stage: Stage, result: Result, path: str, repeat: int) -> None:
    """Measure clones of the branch *path*, which is `warm.NAME` below the root."""
    cache = os.path.join(stage.path, "streams")
    kept = stage.service("kept", warm_repositories=0, stream_cache=cache)
    unkept = stage.service("unkept", warm_repositories=0, stream_cache="off")
    git = imported(stage, path)
    with kept, unkept:
        clones = Clones(kept, unkept, path)
        ways = {
            ANEW: clones.anew,
            FIRST: clones.first,
            KEEPING: clones.keeping,
            KEPT: clones.kept,
            TOGETHER: clones.together,
        }
        if git:
            ways[GIT] = lambda: upload_pack(stage, git)
        costs = in_rounds(ways, repeat, warm=1)
    cpu = {x: [each.cpu for each in costs[x]] for x in costs}
    result.figures("CPU seconds of the server, a clone", cpu, ANEW)
    result.figures(
        "MiB that its worker has alone",
        {x: [each.memory for each in costs[x]] for x in costs if x != GIT},
    )
    speeds = [x.size / x.wall / (1 << 30) for x in costs[KEPT]]
    result.figures("GiB a second", {KEPT: speeds})
    less = ratios(cpu[ANEW], cpu[KEPT])
    result.target("CPU of a clone that is kept, less than anew", less, 30)
    if git:
        of_git = ratios(cpu[KEPT], cpu[GIT])
        figure = "CPU of a clone that is kept, of git upload-pack"
        result.target(figure, of_git, 1, at_most=True)
    more = ratios(cpu[TOGETHER], cpu[ANEW])
    result.target("CPU of 8 clones at once, of one", more, 1.3, at_most=True)
    more = ratios(cpu[KEEPING], cpu[FIRST])
    result.target("CPU of the clone to be kept, of the first", more, 1.1, at_most=True)
    result.target("a stream that is kept", speeds, 1, "GiB/s")
    memory = [each.memory for each in costs[KEPT]]
    figure = "memory of a worker that serves what is kept"
    result.target(figure, memory, 8, "MiB", at_most=True)


def imported(stage: Stage, path: str) -> str:
    """A git repository with the history of the branch *path*; "" without what it needs.

    That is git, and python-fastimport for ``brz fast-export``.
    """
    if not shutil.which("git"):
        return ""
    place = os.path.join(stage.path, "git")
    environ = stage.environ("git")
    quiet = {"env": environ, "stderr": subprocess.DEVNULL}
    subprocess.run(["git", "init", "--quiet", "--bare", place], check=True, **quiet)
    words = [*stage.brz, "fast-export", "--plain", path, "-"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, **quiet) as export:
        words = ["git", "-C", place, "fast-import", "--quiet"]
        done = subprocess.run(words, stdin=export.stdout, **quiet)
    if export.returncode or done.returncode:
        print("brz fast-export does not work: nothing is compared with git")
        return ""
    words = ["git", "-C", place, "repack", "-a", "-d", "-q"]
    subprocess.run(words, check=True, **quiet)
    return place


def upload_pack(stage: Stage, place: str) -> Cost:
    """A clone of the git repository *place*; what it costs the server."""
    used, target = os.path.join(stage.path, "used"), os.path.join(stage.path, "cloned")
    program = os.path.join(stage.path, "upload-pack.py")
    with open(program, "w") as file:
        file.write(_TIMED)
    shutil.rmtree(target, ignore_errors=True)
    command = f"{sys.executable} -S {program} {used}"
    began = time.perf_counter()
    words = ["git", "clone", "--quiet", "--bare", "--no-local"]
    words += [f"--upload-pack={command}", f"file://{place}", target]
    subprocess.run(words, check=True, env=stage.environ("git"))
    wall = time.perf_counter() - began
    with open(used) as file:
        return Cost(float(file.read()), wall, 0, 0.0)
