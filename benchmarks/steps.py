# SPDX-License-Identifier: GPL-2.0-or-later

"""What a worker does from its fork to its first answer, step by step.

A plug-in takes the time after each step in each worker, and counts page faults:
microseconds of the clock and pages, medians. What lies between two steps counts
for the second. The list in doc/design.txt was made by this.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from typing import Any

from common import arguments, run
from connections import say_hello
from figures import table
from sides import in_process
from stage import SOCKET, Stage

#: Where the plug-in writes, one JSON line for each worker.
_OUTPUT = "LPSERVE_STEPS"
_PLUGIN = '''\
"""Takes the time after each step of a worker."""
import functools, json, os, resource, time
from breezy.plugins.lpserve.lpserve import channel
from breezy.plugins.lpserve.lpserve.serving import medium
from breezy.plugins.lpserve.lpserve.zygote import reset, worker

steps = []


def mark(name):
    used = resource.getrusage(resource.RUSAGE_SELF)
    steps.append((name, time.perf_counter(), used.ru_minflt))


def after(place, name, label=None, before=False):
    original = getattr(place, name)

    @functools.wraps(original)
    def stepped(*args, **options):
        if before:
            steps.clear()
            mark(label)
        try:
            return original(*args, **options)
        finally:
            if not before:
                mark(label or name)

    setattr(place, name, stepped)


for found in (reset.AT_FORK, reset.AT_CONNECTION):
    for number, step in enumerate(found):
        holder = type("Holder", (), {step.__name__: staticmethod(step)})
        after(holder, step.__name__)
        found[number] = getattr(holder, step.__name__)
after(worker, "main", "fork", before=True)
after(channel, "receive", "receive")
after(worker._LinkAnswers, "connect", "stdio, ok")
after(medium.PipeMedium, "__init__", "medium")
after(medium.PipeMedium, "_build_protocol", "read request")
after(medium.PipeMedium, "_serve_one_request", "answer")
after(worker, "practise", "rest of the practice")
leave = worker._leave


def stepped_leave(*args):
    mark("end of input")
    leave(*args)
    mark("leave")
    with open(os.environ["LPSERVE_STEPS"], "a") as file:
        file.write(json.dumps(steps) + "\\n")


worker._leave = stepped_leave
'''
#: The step after which there is a connection.
_TAKEN = "receive"


def measure(stage: Stage, chosen: Any) -> dict[str, Any]:
    place = os.path.join(stage.path, "steps")
    output = os.path.join(stage.path, "steps.json")
    os.mkdir(place)
    with open(os.path.join(place, "__init__.py"), "w") as file:
        file.write(_PLUGIN)
    service = stage.service("steps")
    service.environ["BRZ_PLUGINS_AT"] += f":steps@{place}"
    service.environ[_OUTPUT] = output
    with service:
        side = in_process(service, SOCKET, "socket")
        for _ in range(chosen.repeat):
            say_hello(side.start)
            service.wait_for_children(3)
    with open(output) as file:
        workers = [json.loads(line) for line in file]
    rows, listed = _rows(workers)
    head = ["step", "us", "page faults"]
    return {"text": table(head, rows), "unit": "microseconds", "steps": listed}


def _rows(workers: list[Any]) -> tuple[list[list[str]], list[dict[str, Any]]]:
    """A line for each step: the practice, then the connection, each with its sum."""
    names = [step[0] for step in workers[-1]]
    alike = [each for each in workers if [step[0] for step in each] == names]
    # In a spare worker the first is the practice's, the last the connection's.
    taken = len(names) - 1 - names[::-1].index(_TAKEN)
    rows, listed, total = [], [], [0.0, 0.0]
    for number, name in enumerate(names):
        if number == 0:
            time, faults = 0.0, statistics.median(each[0][2] for each in alike)
        else:
            pairs = [(each[number - 1], each[number]) for each in alike]
            time = statistics.median((b[1] - a[1]) * 1e6 for a, b in pairs)
            faults = statistics.median(b[2] - a[2] for a, b in pairs)
        if number == taken:
            time = 0.0  # it waited for a connection
        part = "spare" if number < taken else "connection"
        listed.append({"part": part, "step": name, "us": time, "faults": faults})
        rows.append([name, f"{time:.0f}", f"{faults:.0f}"])
        total = [total[0] + time, total[1] + faults]
        if number == taken - 1 or (name == "answer" and number > taken):
            rows.append([f"= {part}", f"{total[0]:.0f}", f"{total[1]:.0f}"])
            total = [0.0, 0.0]
            if number > taken:
                break
    return rows, listed


def main() -> int:
    parser = arguments(__doc__, 60, "connections")
    return run("steps", parser, measure)


if __name__ == "__main__":
    sys.exit(main())
