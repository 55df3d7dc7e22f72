# SPDX-License-Identifier: GPL-2.0-or-later

"""What a worker does from its fork to its first answer, step by step.

A plug-in takes the time after each step in each worker, and counts page faults:
microseconds of the clock and pages, medians. What lies between two steps counts
for the second. The list in doc/design.txt was made by this.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator

from connections import say_hello
from runner import Result, arguments, median, run
from sides import in_process
from stage import Stage

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


def measure(stage: Stage, chosen: argparse.Namespace) -> Result:
    output = os.path.join(stage.path, "steps.json")
    service = stage.service()
    service.add_plugin("steps", _PLUGIN)
    service.environ[_OUTPUT] = output
    with service:
        side = in_process(service)
        for _ in range(chosen.repeat):
            say_hello(side.start)
            service.wait_for_spares()
    with open(output) as file:
        workers = [json.loads(line) for line in file]
    result = Result()
    result.table(["step", "us", "page faults"], rows(workers))
    return result


def rows(workers: list[list[tuple[str, float, int]]]) -> Iterator[list[str]]:
    """A line for each step: the practice, then the connection, each with its sum."""
    names = [step[0] for step in workers[-1]]
    alike = [each for each in workers if [step[0] for step in each] == names]
    # In a spare worker the first is the practice's, the last the connection's.
    taken = len(names) - 1 - names[::-1].index(_TAKEN)
    sums = [0.0, 0.0]
    for number, name in enumerate(names):
        before = number - 1
        faults = median([w[number][2] - (before >= 0 and w[before][2]) for w in alike])
        time = 0.0  # the first is the fork; then it waited for a connection
        if number not in (0, taken):
            time = median([(w[number][1] - w[before][1]) * 1e6 for w in alike])
        sums = [sums[0] + time, sums[1] + faults]
        yield [name, f"{time:.0f}", f"{faults:.0f}"]
        if number == taken - 1:
            yield ["= before, in a spare worker", *(f"{each:.0f}" for each in sums)]
            sums = [0.0, 0.0]
        if name == "answer" and number > taken:
            yield ["= at the connection", *(f"{each:.0f}" for each in sums)]
            return


if __name__ == "__main__":
    parser = arguments(__doc__, 60, "connections")
    sys.exit(run("steps", parser, measure))
