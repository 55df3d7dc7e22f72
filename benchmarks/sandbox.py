# SPDX-License-Identifier: GPL-2.0-or-later

"""What a connection takes with and without ``lpserve.sandbox``.

A service for each sandbox, of spare workers and of workers that are forked when they
are asked for: the time to the first byte at the socket, and the CPU time of service,
zygote and workers. All of them in turn.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys

from accounts import Account, account, count
from runner import Result, add_number, arguments, run
from sides import in_process
from stage import USER, BenchmarkError, Stage

#: With %u, what depends on the user cannot be made beforehand, sandbox or not.
SANDBOXES = ("off", "writes", "strict", "off, %u", "strict, %u")
#: How many spare workers, and in words.
SPARES = {2: "spare worker", 0: "forked when asked"}


def start(
    stage: Stage, stack: contextlib.ExitStack, sandbox: str, spares: int
) -> Account:
    """Start the service of one sandbox."""
    name = f"{sandbox}; {SPARES[spares]}"
    wanted, _, user = sandbox.partition(", ")
    service = stage.service(
        f"sandbox-{spares}-{SANDBOXES.index(sandbox)}",
        sandbox=wanted,
        directory=os.path.join(stage.root, user),
        spare_workers=spares,
        max_spare_workers=spares,
    )
    made = account(stack, service, lambda service: in_process(service, name))
    found = service.status()["sandbox"]
    if found["holds"] != wanted:
        raise BenchmarkError(f"no sandbox here: {found['why']}")
    return made


def measure(stage: Stage, chosen: argparse.Namespace) -> Result:
    os.mkdir(os.path.join(stage.root, USER))
    with contextlib.ExitStack() as stack:
        ways = [(spares, sandbox) for spares in SPARES for sandbox in SANDBOXES]
        made = {way: start(stage, stack, way[1], way[0]) for way in ways}
        count(list(made.values()), chosen.repeat, chosen.per_round)
    result = Result()
    for spares in SPARES:
        accounts = [made[spares, sandbox] for sandbox in SANDBOXES]
        base = accounts[0].side.name
        times = {each.side.name: each.times for each in accounts}
        result.figures("ms to the first byte", times, base)
        totals = {each.side.name: each.totals() for each in accounts}
        result.figures("CPU ms", totals, base)
    return result


if __name__ == "__main__":
    parser = arguments(__doc__, 10, "rounds")
    add_number(parser, "per-round", 25, "connections each way in a round")
    sys.exit(run("sandbox", parser, measure))
