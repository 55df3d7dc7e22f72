# SPDX-License-Identifier: GPL-2.0-or-later

"""The CPU time that a connection takes: hello, its answer, and the end.

Counted is everything: the client with the shell that starts it, the service, the
zygote with what it forks through, the worker with all that it did as a spare; and
in comparison ``brz serve --inet``, ``git upload-pack``, Mercurial and chg, whose
daemon counts, too. Each client and door has a service of its own, so that what a
service took is theirs, and the sides are taken in turn, one connection at a time.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from dataclasses import dataclass, field
from typing import Any

from accounts import Group, cpu_of, cpu_of_reaped, group
from common import add_number, arguments, run
from connections import DOORS, say_hello
from figures import median, ms, summary, table, target, times_table
from programs import Program
from sides import CHG, INET, NATIVE, PYTHON, Side, client, in_turn, inet, others
from stage import Stage

CLIENT, SERVICE, ZYGOTE, MIDDLE, WORKER = (
    "program and shell",
    "service",
    "zygote",
    "middle process",
    "worker",
)
PARTS = (CLIENT, SERVICE, ZYGOTE, MIDDLE, WORKER)


@dataclass
class Account:
    """What connections of one side take.

    :ivar group: of the service and all its children, if there can be one; or of
        chg's daemon.
    :ivar clients: CPU seconds of the programs of this round.
    :ivar parts: seconds per connection, by part, of each round.
    """

    side: Side
    group: Group | None = None
    clients: float = 0.0
    parts: dict[str, list[float]] = field(default_factory=dict)

    def totals(self) -> list[float]:
        """Seconds per connection, of each round."""
        return [sum(each) for each in zip(*self.parts.values())]

    def begin(self) -> None:
        """A round begins."""
        self.clients = 0.0
        self._before = self._so_far()

    def end(self, connections: int) -> None:
        """A round of so many connections has ended."""
        found = {CLIENT: self.clients}
        for part, seconds in self._so_far().items():
            found[part] = seconds - self._before[part]
        for part, seconds in found.items():
            self.parts.setdefault(part, []).append(seconds / connections)

    def _so_far(self) -> dict[str, float]:
        service = self.side.service
        if service is None:
            return {} if self.group is None else {WORKER: self.group.seconds()}
        service.wait_for_children(1 + service.spares)
        found = {
            SERVICE: cpu_of(service.pid),
            ZYGOTE: cpu_of(service.zygote),
            # Of the zygote's children it reaps nothing but these.
            MIDDLE: cpu_of_reaped(service.zygote),
        }
        if self.group is None:
            found[WORKER] = cpu_of_reaped(service.pid)
        else:
            found[WORKER] = self.group.seconds() - sum(found.values())
        return found


@contextlib.contextmanager
def accounts(stage: Stage) -> Any:
    """An `Account` for each side."""
    with contextlib.ExitStack() as stack:
        made = []
        for kind in (NATIVE, PYTHON):
            for door in DOORS:
                name = f"{kind}-{door}".replace(" ", "-")
                counted = stack.enter_context(group(name))
                service = stack.enter_context(stage.service(name, max_spare_workers=2))
                if counted is not None:
                    counted.add([service.pid, *service.children()])
                made.append(Account(client(stage, service, kind, door), counted))
        daemon = stack.enter_context(group("chg"))
        words = daemon.words if daemon is not None else []
        for side in stack.enter_context(others(stage, words)):
            if side.name != CHG:
                made.append(Account(side))
            elif daemon is not None:
                made.append(Account(side, daemon))
        made.append(Account(inet(stage)))
        yield made


def measure(stage: Stage, chosen: argparse.Namespace) -> dict[str, Any]:
    with accounts(stage) as made:
        by_name = {account.side.name: account for account in made}
        sides = [account.side for account in made]
        for side, _ in in_turn(sides, 0):
            say_hello(side.start)
        for _ in range(chosen.repeat):
            for account in made:
                account.begin()
            for side, _ in in_turn(sides, chosen.per_round, warm=0, settle=False):
                # Its spare workers are back, which nobody asks the service.
                if side.service is not None:
                    side.service.wait_for_children(1 + side.service.spares)
                program = say_hello(side.start)
                assert isinstance(program, Program)
                by_name[side.name].clients += program.cpu
            for account in made:
                account.end(chosen.per_round)
    return report(made, chosen.per_round)


def report(made: list[Account], per_round: int) -> dict[str, Any]:
    """The result, as `common.run` takes it."""
    totals = {account.side.name: account.totals() for account in made}
    rounds = len(totals[INET])
    text = times_table("CPU ms per connection", totals, INET)
    text += f"of {rounds} rounds of {per_round} connections\n\n"
    rows, parts = [], {}
    for account in made:
        found = {name: median(values) for name, values in account.parts.items()}
        parts[account.side.name] = found
        if account.side.service is not None:
            rows.append([account.side.name, *(ms(found[part]) for part in PARTS)])
    text += table(["of which (medians)", *PARTS], rows)
    exact = all(account.group for account in made if account.side.service)
    if not exact:
        text += "no control groups: middle processes and workers in ticks of 10 ms\n"
    targets = []
    for door in DOORS:
        figure = f"CPU per connection, native client, {door}"
        found = median(totals[f"{NATIVE}, {door}"])
        targets.append(target(figure, found * 1000, 5, "ms", at_most=True))
        less = median(totals[INET]) / found
        targets.append(target(f"{figure}, less than brz", less, 35))
    return {
        "text": text + "\n",
        "unit": "seconds",
        "cpu": {name: summary(values) for name, values in totals.items()},
        "parts": parts,
        "per_round": per_round,
        "exact": exact,
        "targets": targets,
    }


def main() -> int:
    parser = arguments(__doc__, 10, "rounds")
    add_number(parser, "per-round", 25, "connections each way in a round")
    return run("cpu", parser, measure)


if __name__ == "__main__":
    sys.exit(main())
