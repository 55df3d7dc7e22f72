# SPDX-License-Identifier: GPL-2.0-or-later

"""The CPU time of a connection: hello, its answer, and the end.

It includes the client with the shell that starts it, the service, the zygote, and the
worker with what it did as a spare worker. ``brz serve --inet`` and ``git upload-pack``
are measured for comparison. Each client and door has a service of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys

from accounts import PARTS, Account, account, count
from runner import Result, median, options, ratios, run
from sides import INET, NATIVE, PYTHON, client, git, inet
from stage import DOORS, Stage


def measure(stage: Stage, chosen: argparse.Namespace) -> Result:
    with contextlib.ExitStack() as stack:
        served = []
        for kind in (NATIVE, PYTHON):
            for door in DOORS:
                name = f"{kind}-{door}".replace(" ", "-")
                service = stage.service(name, max_spare_workers=2)
                side = functools.partial(client, stage, kind=kind, door=door)
                served.append(account(stack, service, side))
        made = served + [Account(side) for side in (*git(stage), inet(stage))]
        count(made, chosen.repeat, chosen.per_round)
    result = Result()
    totals = {each.side.name: each.totals() for each in made}
    result.figures("CPU ms per connection", totals, INET)
    rows = []
    for each in served:
        parts = [median(each.parts[part]) for part in PARTS]
        rows.append([each.side.name, *parts])
    result.table(["of which (medians)", *PARTS], rows)
    for door in DOORS:
        side = f"{NATIVE}, {door}"
        figure = f"CPU per connection, {side}"
        result.target(figure, totals[side], 5, "ms", at_most=True)
        less = ratios(totals[INET], totals[side])
        result.target(f"{figure}, less than brz", less, 35)
    return result


if __name__ == "__main__":
    parser = options(
        __doc__,
        repeat=(10, "rounds"),
        per_round=(25, "connections each way in a round"),
    )
    sys.exit(run(parser, measure))
