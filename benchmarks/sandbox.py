# SPDX-License-Identifier: GPL-2.0-or-later

"""What a connection takes with and without ``lpserve.sandbox``.

Each sandbox has a service with spare workers and one whose workers are forked when
asked for. Measured are the time to the first byte at the socket, and the CPU time of
service, zygote and workers.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys

from accounts import Account, account, count
from runner import Result, options, run
from sides import in_process
from stage import USER, BenchmarkError, Stage

#: With %u, what depends on the user cannot be prepared by the zygote.
SANDBOXES = ("off", "writes", "strict", "off, %u", "strict, %u")
#: The number of spare workers, and what that means.
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
        made = [[start(stage, stack, x, n) for x in SANDBOXES] for n in SPARES]
        every = [each for accounts in made for each in accounts]
        count(every, chosen.repeat, chosen.per_round)
    result = Result()
    for accounts in made:
        base = accounts[0].side.name
        times = {each.side.name: each.times for each in accounts}
        result.figures("ms to the first byte", times, base)
        totals = {each.side.name: each.totals() for each in accounts}
        result.figures("CPU ms", totals, base)
    return result


if __name__ == "__main__":
    parser = options(
        __doc__,
        repeat=(10, "rounds"),
        per_round=(25, "connections each way in a round"),
    )
    sys.exit(run(parser, measure))
