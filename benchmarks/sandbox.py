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
from typing import Any

from accounts import group
from common import add_number, arguments, run
from connections import say_hello
from cpu import Account
from figures import median, summary, times_table
from sides import in_process, in_turn
from stage import SOCKET, USER, BenchmarkError, Stage

#: The name of each, and the settings of its service.
SANDBOXES: dict[str, dict[str, object]] = {
    "off": {"sandbox": "off"},
    "writes": {"sandbox": "writes"},
    "strict": {"sandbox": "strict"},
    # What depends on the user cannot be made beforehand, sandbox or not.
    "off, %u": {"sandbox": "off"},
    "strict, %u": {"sandbox": "strict"},
}
#: How many spare workers, and in words.
SPARES = {2: "spare worker", 0: "forked when asked"}


@contextlib.contextmanager
def accounts(stage: Stage) -> Any:
    """An account for each service."""
    os.mkdir(os.path.join(stage.root, USER))
    with contextlib.ExitStack() as stack:
        made = []
        for spares, words in SPARES.items():
            for sandbox, settings in SANDBOXES.items():
                name = f"{sandbox}; {words}"
                if "%u" in sandbox:
                    settings = {**settings, "directory": f"{stage.root}/%u"}
                place = f"sandbox-{len(made)}"
                counted = stack.enter_context(group(place))
                service = stack.enter_context(
                    stage.service(
                        place,
                        spare_workers=spares,
                        max_spare_workers=spares,
                        **settings,
                    )
                )
                holds = service.status()["sandbox"]
                if holds["holds"] != settings["sandbox"]:
                    raise BenchmarkError(f"no sandbox here: {holds['why']}")
                if counted is not None:
                    counted.add([service.pid, *service.children()])
                made.append(Account(in_process(service, SOCKET, name), counted))
        yield made


def measure(stage: Stage, chosen: argparse.Namespace) -> dict[str, Any]:
    with accounts(stage) as made:
        sides = [account.side for account in made]
        times: dict[str, list[float]] = {side.name: [] for side in sides}
        for side, _ in in_turn(sides, 0):
            say_hello(side.start)
        for _ in range(chosen.repeat):
            for account in made:
                account.begin()
            for side, _ in in_turn(sides, chosen.per_round, warm=0, settle=False):
                assert side.service is not None
                side.service.wait_for_children(1 + side.service.spares)
                times[side.name].append(say_hello(side.start).took)
            for account in made:
                account.end(chosen.per_round)
    return report(made, times)


def report(made: list[Account], times: dict[str, list[float]]) -> dict[str, Any]:
    """The result, as `common.run` takes it."""
    totals = {account.side.name: account.totals() for account in made}
    text = ""
    for words in SPARES.values():
        base = f"off; {words}"
        for title, found in (("ms to the first byte", times), ("CPU ms", totals)):
            chosen = {name: found[name] for name in found if name.endswith(words)}
            text += times_table(title, chosen, base) + "\n"
    return {
        "text": text,
        "unit": "seconds",
        "ways": {name: summary(values) for name, values in times.items()},
        "cpu": {name: median(values) for name, values in totals.items()},
    }


def main() -> int:
    parser = arguments(__doc__, 10, "rounds")
    add_number(parser, "per-round", 25, "connections each way in a round")
    return run("sandbox", parser, measure)


if __name__ == "__main__":
    sys.exit(main())
