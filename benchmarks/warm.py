# SPDX-License-Identifier: GPL-2.0-or-later

"""What repositories in memory save: requests to one with a long history.

Each is sent to a new ``brz serve --inet``, and in the first connection of a worker that
keeps nothing in memory, and of one that does. The repository has 30,000 revisions and
5,000 files. history.py creates it once, in build/bench/, which takes minutes. The other
question is how long a connection waits for a worker while it is loaded again.
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import breezy
import breezy.bzr
import history
from accounts import cpu_of, pss
from breezy import errors
from breezy.branch import Branch
from breezy.bzr.smart import client as smart_client
from breezy.bzr.smart import medium, protocol
from connections import NOTHING, Connection, Program, SocketConnection
from runner import Result, in_rounds, options, ratios, run
from sides import Side, first_bytes
from stage import BenchmarkError, Service, Stage, wait_until

PROCESS, COLD, WARM = "brz serve --inet", "cold worker", "warm worker"
PARENT_MAP, GRAPH, PULL, BRANCH = (
    "get_parent_map at the tip",
    "get_revision_graph from the tip",
    "requests of a pull with nothing new",
    "the stream of a whole branch",
)
#: The targets: CPU time of a cold worker divided by that of a warm one.
LESS = {PARENT_MAP: 10, GRAPH: 10, PULL: 5, BRANCH: 0.97}
NAME = b"branch/"
#: How the stream of a branch ends: with the end of a container, and of the message.
_END = b"b\0\0\0\1Ee"
#: With another order of sets Breezy sends some revisions more or less.
SAME_ORDER = {"PYTHONHASHSEED": "0"}
#: A request: its words and its body, or None.
Request = tuple[tuple[bytes, ...], bytes | None]


class Cost(NamedTuple):
    """What some requests cost: milliseconds, and MiB at the end."""

    wall: float
    cpu: float
    pss: float
    answers: list[tuple[Any, bytes | None]]


def requests_of(path: str) -> dict[str, list[Request]]:
    """The requests of each kind to the branch *path*."""
    branch = Branch.open(path)
    tip = branch.last_revision()
    words = (b"Repository.get_parent_map", NAME, b"include-missing:", tip)
    parent_map = (words, b"\n\n0")
    network_name = branch.repository._format.network_name()
    stream = (b"Repository.get_stream_1.19", NAME, network_name)
    return {
        PARENT_MAP: [parent_map],
        GRAPH: [((b"Repository.get_revision_graph", NAME, tip), None)],
        # As shown by brz -Dhpss.
        PULL: [
            ((b"get", NAME + b".bzr/branch-format"), None),
            ((b"BzrDir.open_2.1", NAME), None),
            ((b"BzrDir.open_branchV3", NAME), None),
            ((b"BzrDir.find_repositoryV3", NAME), None),
            ((b"Branch.get_stacked_on_url", NAME), None),
            ((b"Branch.last_revision_info", NAME), None),
            ((b"Branch.get_config_file", NAME), None),
            parent_map,
            ((b"Branch.get_tags_bytes", NAME), None),
            ((b"Branch.get_all_reference_info", NAME), None),
        ],
        BRANCH: [(stream, b"ancestry-of\n" + tip)],
    }


def comparable(what: str, answers: Any) -> Any:
    """*answers* without what differs between processes."""
    if what == GRAPH:
        return [(found, sorted(body.split(b"\n"))) for found, body in answers]
    if what == BRANCH:
        return [(found, len(body) // 1000) for found, body in answers]
    return answers


class Server:
    """A connection to a server, with Breezy's client, whose cost is not counted."""

    def __init__(self, made: Connection):
        self._made = made
        #: Whether the start of a program is part of what it costs.
        self.is_program = isinstance(made, Program)
        self.pid = made.pid
        ends = os.dup(made.descriptor), os.dup(made.writes)
        pipes = os.fdopen(ends[0], "rb"), os.fdopen(ends[1], "wb")
        self._medium = medium.SmartSimplePipesClientMedium(*pipes, "bzr+ssh://host/")
        self._client = smart_client._SmartClient(self._medium)

    def ask(self, request: Request) -> tuple[Any, bytes | None]:
        """Send *request*; the answer and its body."""
        words, body = request
        try:
            if body is None:
                found, handler = self._client.call_expecting_body(*words)
            else:
                found, handler = self._client.call_with_body_bytes_expecting_body(
                    words[0], words[1:], body
                )
        except errors.ErrorFromSmartServer as error:
            return error.error_tuple, None
        return found, handler.read_body_bytes()

    def discard(self, request: Request) -> int:
        """Send *request*, and read the answer without a look; its bytes."""
        words, body = request
        made = protocol.ProtocolThreeRequester(self._medium.get_request())
        made.set_headers(self._client._headers)
        made.call_with_body_bytes(words, body)
        size, end = 0, b""
        descriptor = self._made.descriptor
        while not end.endswith(_END):
            data = os.read(descriptor, 1 << 20)
            if not data:
                raise BenchmarkError("the answer ends early")
            size += len(data)
            end = (end + data)[-len(_END) :]
        return size

    def cost(self, requests: Sequence[Request]) -> Cost:
        """Send all *requests*; what that costs, with the start of a program."""
        whole = self.is_program
        cpu = 0.0 if whole else cpu_of(self.pid)
        began = self._made.began if whole else time.perf_counter()
        answers = [self.ask(each) for each in requests]
        wall = time.perf_counter() - began
        cpu = cpu_of(self.pid) - cpu
        return Cost(wall * 1000, cpu * 1000, pss([self.pid]), answers)

    def close(self) -> None:
        """End the connection and the server."""
        self._medium._readable_pipe.close()
        self._medium._writeable_pipe.close()
        self._made.finish()


def process(stage: Stage) -> Server:
    """A new ``brz serve --inet``."""
    environ = stage.environ("today") | SAME_ORDER
    return Server(Program(stage.inet_words(), environ, stage.errors, NOTHING))


def worker(service: Service) -> Server:
    """A worker of *service*."""
    made = SocketConnection(service, NOTHING)
    made.wait_for_pid()
    return Server(made)


def use(service: Service) -> None:
    """Send one request about the branch to a worker."""
    made = worker(service)
    made.ask(((b"Repository.has_revision", NAME, b"x"), None))
    made.close()


def entry(service: Service) -> dict[str, Any] | None:
    """The status of the repository, if it is in memory."""
    found = [each for each in service.status()["warm"] if each["state"] == "warm"]
    return found[0] if found else None


def ask_all(
    stage: Stage, result: Result, asked: dict[str, list[Request]], repeat: int
) -> None:
    """Send all kinds of requests to every side."""
    cold = stage.service("cold", warm_repositories=0)
    warm = stage.service("warm", warm_interval=0)
    for each in (cold, warm):
        each.environ.update(SAME_ORDER)

    def once(start: Callable[[], Server], requests: Sequence[Request]) -> Cost:
        cold.settle()
        warm.settle()
        server = start()
        try:
            return server.cost(requests)
        finally:
            server.close()

    with cold, warm:
        use(warm)
        loaded = wait_until(lambda: entry(warm), "the repository is in memory")
        servers: dict[str, Callable[[], Server]] = {
            PROCESS: functools.partial(process, stage),
            COLD: functools.partial(worker, cold),
            WARM: functools.partial(worker, warm),
        }
        for what, requests in asked.items():
            ways = {x: functools.partial(once, servers[x], requests) for x in servers}
            rounds = min(repeat, 6) if what == BRANCH else repeat
            costs = in_rounds(ways, rounds, warm=1)
            answers = [cost.answers for found in costs.values() for cost in found]
            if len({repr(comparable(what, each)) for each in answers}) != 1:
                raise BenchmarkError(f"{what}: the answers differ")
            report(result, what, costs)
    size, revisions = loaded["bytes"] / (1 << 20), loaded["revisions"]
    result.text += f"in memory: {revisions} revisions, {size:.2f} MiB, "
    result.text += f"loaded in {loaded['load_seconds']:.2f} s\n\n"
    each = [size * 10_000 / revisions]
    figure = "in memory for 10,000 revisions"
    result.target(figure, each, 8, "MiB", at_most=True, exact=True)


def report(result: Result, what: str, costs: dict[str, list[Cost]]) -> None:
    """Add the *costs* of requests of the kind *what*, by side."""
    cpu, wall, memory = (
        {side: [getattr(each, kind) for each in costs[side]] for side in costs}
        for kind in ("cpu", "wall", "pss")
    )
    result.figures(f"CPU ms of the server, {what}", cpu, PROCESS)
    result.figures(f"ms until answered, {what}", wall, PROCESS)
    less = ratios(cpu[COLD], cpu[WARM])
    result.target(f"CPU of {what}, less than a cold worker", less, LESS[what])
    if what == PULL:
        more = [a - b for a, b in zip(memory[WARM], memory[COLD])]
        figure = f"more PSS of a warm worker after {what}"
        result.target(figure, more, 2, "MiB", at_most=True)


def while_loading(stage: Stage, result: Result, rounds: int) -> None:
    """The time to the first byte while the repository is loaded again.

    It is loaded when the mtime of its revision index has changed.
    """
    directory = os.path.join(stage.root, "branch", ".bzr", "repository", "indices")
    index = next(each for each in os.listdir(directory) if ".rix" in each)
    with stage.service("turns", warm_interval=0) as service:
        use(service)
        wait_until(lambda: entry(service), "the repository is in memory")
        editions = [0]

        def edition() -> int:
            return int(service.status()["warm_set"]["edition"])

        def connect(load: bool) -> Connection:
            wait_until(lambda: edition() >= editions[-1], "it was loaded again")
            if load:
                editions.append(edition() + 1)
                os.utime(os.path.join(directory, index))
                use(service)
            service.settle()
            return SocketConnection(service)

        quiet, meanwhile = "nothing is loaded", "the repository is loaded"
        sides = [
            Side(name, functools.partial(connect, name == meanwhile), service)
            for name in (quiet, meanwhile)
        ]
        times = first_bytes(sides, rounds)
    result.figures("ms to the first byte", times)
    more = ratios(times[meanwhile], times[quiet])
    figure = "first byte while a repository is loaded"
    result.target(figure, more, 1.2, "x when quiet", at_most=True)


def measure(stage: Stage, chosen: argparse.Namespace) -> Result:
    made = history.cached(chosen.revisions, chosen.files)
    place = os.path.join(stage.root, "branch")
    shutil.copytree(made, place)
    result = Result()
    ask_all(stage, result, requests_of(place), chosen.repeat)
    while_loading(stage, result, chosen.rounds)
    return result


if __name__ == "__main__":
    parser = options(
        __doc__,
        repeat=(10, "rounds"),
        revisions=(30_000, "revisions of the repository"),
        files=(5_000, "files of the repository"),
        rounds=(50, "times that the repository is loaded"),
    )
    with breezy.initialize():
        sys.exit(run(parser, measure))
