# SPDX-License-Identifier: GPL-2.0-or-later

"""The CPU time that a connection takes: hello, its answer, and the end.

Counted is everything: the client with the shell that starts it, the service, the
zygote with what it forks through, the worker with all that it did as a spare; and
in comparison ``brz serve --inet`` and ``git upload-pack``. Each client and door has a
service of its own, so that what a service took is theirs, and the sides are taken in
turn, one connection at a time.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys

from accounts import PARTS, Account, account, count
from runner import Result, add_number, arguments, median, ratios, run
from sides import INET, NATIVE, PYTHON, client, git, inet
from stage import DOORS, Stage


def measure(stage: Stage, chosen: argparse.Namespace) -> Result:
    with contextlib.ExitStack() as stack:
        made = []
        for kind in (NATIVE, PYTHON):
            for door in DOORS:
                name = f"{kind}-{door}".replace(" ", "-")
                service = stage.service(name, max_spare_workers=2)
                side = functools.partial(client, stage, kind=kind, door=door)
                made.append(account(stack, service, side))
        made += [Account(side) for side in (*git(stage), inet(stage))]
        count(made, chosen.repeat, chosen.per_round)
    return report(made)


def report(made: list[Account]) -> Result:
    result = Result()
    totals = {each.side.name: each.totals() for each in made}
    result.figures("CPU ms per connection", totals, INET)
    served = [each for each in made if each.side.service is not None]
    result.table(
        ["of which (medians)", *PARTS],
        [
            [each.side.name, *(median(each.parts[part]) for part in PARTS)]
            for each in served
        ],
    )
    if not all(each.group for each in served):
        result.text += "no control groups: workers in ticks of 10 ms\n\n"
    for door in DOORS:
        side = f"{NATIVE}, {door}"
        figure = f"CPU per connection, {side}"
        result.target(figure, totals[side], 5, "ms", at_most=True)
        less = ratios(totals[INET], totals[side])
        result.target(f"{figure}, less than brz", less, 35)
    return result


if __name__ == "__main__":
    parser = arguments(__doc__, 10, "rounds")
    add_number(parser, "per-round", 25, "connections each way in a round")
    sys.exit(run("cpu", parser, measure))
