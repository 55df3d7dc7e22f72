# SPDX-License-Identifier: GPL-2.0-or-later

"""What a worker does from its fork to its first answer, step by step.

A plug-in takes the time after each step of each worker and counts page faults. The
table has medians. The time between two steps is part of the second.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator

from connections import say_hello
from runner import Result, median, options, run
from sides import in_process
from stage import Stage

#: The variable that names the output: one line of JSON for each worker.
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
#: The first step of a connection.
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
    """A row for each step: of the practice, then of the connection, each with a sum."""
    names = [step[0] for step in workers[-1]]
    alike = [each for each in workers if [step[0] for step in each] == names]
    # A spare worker practises, and so receives twice.
    taken = len(names) - 1 - names[::-1].index(_TAKEN)
    sums = [0.0, 0.0]
    for number, name in enumerate(names):
        pairs = [(each[max(0, number - 1)], each[number]) for each in alike]
        time = median([(b[1] - a[1]) * 1e6 for a, b in pairs])
        faults = median([b[2] - (a[2] if number else 0) for a, b in pairs])
        if number == taken:
            yield ["= before, in a spare worker", *(f"{each:.0f}" for each in sums)]
            time, sums = 0.0, [0.0, 0.0]  # it waited for a connection
        sums = [sums[0] + time, sums[1] + faults]
        yield [name, f"{time:.0f}", f"{faults:.0f}"]
        if name == "answer" and number > taken:
            yield ["= at the connection", *(f"{each:.0f}" for each in sums)]
            return


if __name__ == "__main__":
    parser = options(__doc__, repeat=(60, "connections"))
    sys.exit(run(parser, measure))
