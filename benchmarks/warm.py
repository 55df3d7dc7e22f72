# SPDX-License-Identifier: GPL-2.0-or-later

"""What repositories in memory save: requests to one with a long history.

Each is asked of a new ``brz serve --inet``, of the first connection of a worker that
keeps nothing in memory, and of one that does, in turn. The repository has 30,000
revisions and 5,000 files; history.py makes it, in some minutes, unless
``--repository`` names one that was made before.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from typing import Any

import breezy
import breezy.bzr
import history
from breezy.branch import Branch
from common import add_number, arguments, run
from connections import SocketConnection, say_hello
from figures import median, ms, percentile, table, target, times_table
from smart import Process, Request, Worker, private_of
from stage import BenchmarkError, Service, Stage, wait_until

COLD_PROCESS, COLD_WORKER, WARM_WORKER = (
    "brz serve --inet",
    "cold worker",
    "warm worker",
)
PARENT_MAP, GRAPH, PULL, AGAIN = (
    "get_parent_map at the tip",
    "get_revision_graph from the tip",
    "requests of a pull with nothing new",
    "get_parent_map once more",
)
BRANCH = "the stream of a whole branch"
NAME = b"branch/"
#: Otherwise the order of sets, which is another in each process, has Breezy fill what
#: it may send with one revision more or less.
SAME_ORDER = {"PYTHONHASHSEED": "0"}


def requests_of(path: str) -> dict[str, list[Request]]:
    """What is asked, by name; *path* is the branch that it is asked of."""
    branch = Branch.open(path)
    tip = branch.last_revision()
    parent_map = (
        (b"Repository.get_parent_map", NAME, b"include-missing:", tip),
        b"\n\n0",
    )
    network_name = branch.repository._format.network_name()
    return {
        PARENT_MAP: [parent_map],
        GRAPH: [((b"Repository.get_revision_graph", NAME, tip), None)],
        # As brz -Dhpss shows them.
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
        BRANCH: [
            (
                (b"Repository.get_stream_1.19", NAME, network_name),
                b"ancestry-of\n" + tip,
            )
        ],
    }


class Costs:
    """Seconds of what was asked of each side: {(request, side): [...]}."""

    def __init__(self) -> None:
        self.wall: dict[tuple[str, str], list[float]] = {}
        self.cpu: dict[tuple[str, str], list[float]] = {}

    def add(self, what: str, side: str, cost: Any) -> None:
        self.wall.setdefault((what, side), []).append(cost.wall)
        self.cpu.setdefault((what, side), []).append(cost.cpu)

    def rows(self) -> list[list[str]]:
        rows = []
        for (what, side), cpu in self.cpu.items():
            wall = self.wall[what, side]
            rows.append(
                [
                    f"{what}, {side}",
                    str(len(cpu)),
                    ms(median(cpu)),
                    ms(percentile(cpu, 0.99)),
                    ms(median(wall)),
                    ms(percentile(wall, 0.99)),
                ]
            )
        return rows

    def ratio(self, what: str, to: str = COLD_WORKER) -> float:
        """How many times less processor time it takes of a warm worker."""
        return median(self.cpu[what, to]) / median(self.cpu[what, WARM_WORKER])


def load(service: Service, name: str = "branch") -> dict[str, Any]:
    """Use a repository, and wait until it is in memory; what status says of it."""
    worker = Worker(service)
    worker.ask(((b"Repository.get_parent_map", name.encode() + b"/", b"x"), b"\n\n0"))
    worker.close()
    return wait_until(lambda: warm_entry(service, name), f"{name} is in memory")


def warm_entry(service: Service, name: str) -> dict[str, Any] | None:
    for each in service.status()["warm"]:
        if each["path"].endswith("/" + name):
            return each if each["state"] == "warm" else None
    return None


def ask_all(
    stage: Stage, chosen: argparse.Namespace, asked: dict[str, list[Request]]
) -> tuple[Costs, dict[str, Any]]:
    """Ask every side everything; what it cost, and what is known of the set."""
    costs = Costs()
    memory: dict[str, Any] = {}
    services = (
        stage.service("cold", warm_repositories=0),
        stage.service("warm", warm_interval=0),
    )
    for each in services:
        each.environ.update(SAME_ORDER)
    with services[0] as cold, services[1] as warm:
        memory["entry"] = load(warm)
        sides = {
            COLD_PROCESS: lambda: Process(stage, SAME_ORDER),
            COLD_WORKER: lambda: Worker(cold),
            WARM_WORKER: lambda: Worker(warm),
        }
        for what, requests in asked.items():
            repeat = min(chosen.repeat, 3) if what == BRANCH else chosen.repeat
            answers: dict[str, Any] = {}
            for number in range(-1, repeat):
                for side, start in sides.items():
                    cold.settle()
                    warm.settle()
                    server = start()
                    cost = server.cost(requests)
                    if what == PARENT_MAP and number >= 0:
                        again = server.cost(requests, whole=False)
                        if side != COLD_PROCESS:
                            costs.add(AGAIN, side, again)
                    if number >= 0:
                        costs.add(what, side, cost)
                        memory.setdefault((what, side), []).append(
                            private_of(server.pid)
                        )
                    server.close()
                    answers[side] = comparable(what, cost.answers)
            if len({repr(each) for each in answers.values()}) != 1:
                raise BenchmarkError(f"{what}: the answers differ")
    return costs, memory


def comparable(what: str, answers: Any) -> Any:
    """*answers*, but for what differs from process to process."""
    if what == GRAPH:
        return [(found, sorted(body.split(b"\n"))) for found, body in answers]
    if what == BRANCH:
        return [(found, len(body) // 1000) for found, body in answers]
    return answers


def turn_over(stage: Stage, rounds: int) -> dict[str, list[float]]:
    """What happens while one of 16 repositories is loaded again and again.

    Its index is touched, which is a change as far as anybody can see.

    :returns: seconds until it is in memory, and of handshakes (request to first
        byte, a spare worker is there) meanwhile and when nothing is loaded.
    """
    small = os.path.join(stage.root, "small")
    history.make(small, 300, 50)
    names = ["branch"]
    for number in range(15):
        names.append(f"small{number}")
        shutil.copytree(small, os.path.join(stage.root, names[-1]), symlinks=True)
    directory = os.path.join(stage.root, "branch", ".bzr", "repository", "indices")
    index = next(
        each.path for each in os.scandir(directory) if each.name[-4:] == ".rix"
    )
    found: dict[str, list[float]] = {"turns": [], "quiet": [], "meanwhile": []}

    def shake_hands(kind: str) -> None:
        for _ in range(4):
            service.settle()
            began = say_hello(lambda: SocketConnection(service.directory))
            found[kind].append(began.took)

    def wait_until_loaded(edition: int) -> None:
        def loaded() -> bool:
            return bool(service.status()["warm_set"]["edition"] > edition)

        wait_until(loaded, "the repository was loaded again")

    with stage.service("turns", warm_interval=0) as service:
        for name in names:
            load(service, name)
        for _ in range(rounds):
            shake_hands("quiet")
            for measured in (False, True):
                edition = service.status()["warm_set"]["edition"]
                os.utime(index)
                worker = Worker(service)
                worker.ask(((b"Repository.has_revision", NAME, b"x"), None))
                worker.close()
                began = time.perf_counter()
                if not measured:
                    shake_hands("meanwhile")
                wait_until_loaded(edition)
                if measured:
                    found["turns"].append(time.perf_counter() - began)
    return found


def measure(stage: Stage, chosen: argparse.Namespace) -> dict[str, Any]:
    place = os.path.join(stage.root, "branch")
    if chosen.repository:
        shutil.copytree(chosen.repository, place, symlinks=True)
    else:
        history.make(place, chosen.revisions, chosen.files)
    costs, memory = ask_all(stage, chosen, requests_of(place))
    return report(costs, memory, turn_over(stage, chosen.rounds))


def extra(memory: dict[str, Any], what: str) -> float:
    """MiB of a warm worker's share (PSS) beyond that of a cold one."""
    warm, cold = (
        median([share for _, share in memory[what, side]])
        for side in (WARM_WORKER, COLD_WORKER)
    )
    return warm - cold


def report(
    costs: Costs, memory: dict[str, Any], turns: dict[str, Any]
) -> dict[str, Any]:
    """The result, as `common.run` takes it."""
    entry = memory.pop("entry")
    size = entry["bytes"] / (1 << 20)
    head = ["ms, medians", "runs", "server CPU", "p99", "wall", "p99"]
    text = table(head, costs.rows())
    text += (
        f"\nin memory: {entry['revisions']} revisions, {size:.2f} MiB, "
        f"loaded in {entry['load_seconds']:.2f} s\n\n"
    )
    text += times_table("one of 16 repositories is loaded again", turns) + "\n"
    return {
        "text": text,
        "cpu": {f"{what}, {side}": each for (what, side), each in costs.cpu.items()},
        "wall": {f"{what}, {side}": each for (what, side), each in costs.wall.items()},
        "memory": {f"{w}, {side}": each for (w, side), each in memory.items()},
        "entry": entry,
        "turns": turns,
        "targets": [
            target(
                f"{PARENT_MAP}, less than a cold worker", costs.ratio(PARENT_MAP), 10
            ),
            target(f"{GRAPH}, less than a cold worker", costs.ratio(GRAPH), 10),
            target(f"{PULL}, less than a cold worker", costs.ratio(PULL), 5),
            target(f"{BRANCH}, less than a cold worker", costs.ratio(BRANCH), 0.97),
            target(
                "in memory for 10,000 revisions",
                size * 10_000 / entry["revisions"],
                8,
                "MiB",
                at_most=True,
            ),
            target(
                "p99 of a handshake while a repository is loaded",
                percentile(turns["meanwhile"], 0.99) / percentile(turns["quiet"], 0.99),
                1.2,
                "x when quiet",
                at_most=True,
            ),
            target(
                f"more PSS of a warm worker after {PULL}",
                extra(memory, PULL),
                2,
                "MiB",
                at_most=True,
            ),
        ],
    }


def main() -> int:
    """Read the command line."""
    parser = arguments(__doc__, 10, "rounds")
    parser.add_argument("--repository", metavar="BRANCH", help="made by history.py")
    add_number(parser, "revisions", 30_000, "revisions of the one that is made")
    add_number(parser, "files", 5_000, "files of the one that is made")
    add_number(parser, "rounds", 50, "times that one of 16 repositories is loaded")
    with breezy.initialize():
        return run("warm", parser, measure)


if __name__ == "__main__":
    sys.exit(main())
