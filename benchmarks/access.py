# SPDX-License-Identifier: GPL-2.0-or-later

"""What access rules cost a connection, with 1,000 sections.

Services without rules, with one section and with 1,000 get the first request of a pull,
and then, on other connections, all requests of one with nothing new. A plug-in adds up,
in each worker, the CPU time of the functions that read and ask the rules. Besides, the
CPU time of the workers in these requests. The target is for a connection as such, from
the look at the file to the first answer; each further request adds what it asks.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import sys
import time
from collections.abc import Sequence

import breezy
from breezy import controldir
from runner import Result, in_rounds, options, run
from stage import Service, Stage, wait_until
from warm import NAME, PULL, Request, requests_of, worker

#: The number of sections; None for a service without rules.
SECTIONS = {"without rules": None, "one section": 1, "1,000 sections": 1000}
#: The target, in ms.
AT_MOST = 0.1
#: Seconds after which a file is not read again for having just been written.
SETTLED = 3.0

#: The variable that names the output: one number, in ms, for each worker.
_OUTPUT = "LPSERVE_ACCESS_COST"
_PLUGIN = '''\
"""Adds up the time that access rules take."""
import functools, json, os, time
from breezy.plugins.lpserve.lpserve import accessfile
from breezy.plugins.lpserve.lpserve.serving import permits, smartserver
from breezy.plugins.lpserve.lpserve.zygote import worker

spent = [0.0]
calls = [0]


def timed(place, name):
    original = getattr(place, name)

    @functools.wraps(original)
    def wrapper(*args):
        began = time.thread_time()
        try:
            return original(*args)
        finally:
            spent[0] += time.thread_time() - began
            calls[0] += 1

    setattr(place, name, wrapper)


class Nothing:
    def do(self):
        """What is measured of this is what measuring adds to a call."""


timed(Nothing, "do")
timed(accessfile.AccessFile, "current")
timed(smartserver.ConnectionServer, "restrict")
for name in ("begin_request", "refuse", "shown", "is_fixed"):
    timed(permits.Permits, name)
leave, practise = worker._leave, worker.practise


def practise_apart(*args):
    practise(*args)
    spent[0], calls[0] = 0.0, 0


def told_leave(*args):
    leave(*args)
    with open(os.environ["LPSERVE_ACCESS_COST"], "a") as file:
        took, spent[0] = spent[0], 0.0
        Nothing().do()
        took = max(0.0, took - (calls[0] - 1) * spent[0])
        file.write(json.dumps(took * 1000) + "\\n")


worker._leave, worker.practise = told_leave, practise_apart
'''


def write_rules(path: str, count: int) -> None:
    """Write *count* sections to *path*; the last one lets everybody read all."""
    with open(path, "w") as file:
        file.write("[groups]\n")
        for number in range(count):
            file.write(f"group{number} = user{number}, benchmark, other{number}\n")
        for number in range(count - 1):
            file.write(f"[/projects/{number}]\n@group{number} = rw\n* =\n")
        file.write("[/]\n* = r\n")
    os.chmod(path, 0o644)


def start(stage: Stage, stack: contextlib.ExitStack, count: int | None) -> Service:
    """Start the service with so many sections."""
    settings = {}
    if count is not None:
        path = os.path.join(stage.path, f"access-{count}.conf")
        write_rules(path, count)
        until = time.time() + SETTLED
        wait_until(lambda: time.time() > until, "the rules are old enough")
        settings["access"] = path
    service = stage.service(f"access-{count}", **settings)
    service.add_plugin("access_cost", _PLUGIN)
    service.environ[_OUTPUT] = os.path.join(stage.path, f"cost-{count}.json")
    return stack.enter_context(service)


def pull(service: Service, requests: Sequence[Request]) -> float:
    """The CPU time of a worker that answers *requests*, in ms."""
    made = worker(service)
    try:
        return made.cost(requests).cpu
    finally:
        made.close()


def ask(
    stage: Stage,
    services: dict[str, Service],
    requests: Sequence[Request],
    repeat: int,
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Send *requests* on connections of their own to each of *services*.

    :returns: ms of CPU of a worker, and ms of that for access rules.
    """
    sides = {
        name: functools.partial(pull, service, requests)
        for name, service in services.items()
    }
    cpu = in_rounds(sides, repeat)
    costs = {}
    for name, service in services.items():
        service.settle()
        with open(service.environ[_OUTPUT]) as file:
            costs[name] = [json.loads(line) for line in file][-repeat:]
    return cpu, costs


def measure(stage: Stage, chosen: argparse.Namespace) -> Result:
    with breezy.initialize():
        branch = controldir.ControlDir.create_branch_convenience(
            os.path.join(stage.root, NAME.decode().strip("/")), force_new_tree=False
        )
        requests = requests_of(branch.base)[PULL]
        with contextlib.ExitStack() as stack:
            services = {
                name: start(stage, stack, count) for name, count in SECTIONS.items()
            }
            _, first = ask(stage, services, requests[:1], chosen.repeat)
            cpu, costs = ask(stage, services, requests, chosen.repeat)
    result = Result()
    result.figures("CPU ms of a worker in a pull", cpu, "without rules")
    result.figures(f"ms of it for access rules ({len(requests)} requests)", costs)
    result.figures("ms for access rules of a connection with one request", first)
    few, many = (first[name] for name in list(SECTIONS)[1:])
    result.target("access rules, 1,000 sections", many, AT_MOST, "ms", at_most=True)
    result.target("access rules, one section", few, AT_MOST, "ms", at_most=True)
    return result


if __name__ == "__main__":
    sys.exit(run(options(__doc__, repeat=(40, "rounds")), measure))
