# SPDX-License-Identifier: GPL-2.0-or-later

"""From the exec of ``sh -c CLIENT`` to the first byte, as with sshd's forced command.

The native and the Python ``lp-serve-client`` through both doors; ``git upload-pack``,
Mercurial and chg where they are installed, and ``brz serve --inet``. All are started
by the same shell, which alone takes some of the time: that is shown, too. Bazaar and
Mercurial are told ``hello``; git says which references it has without being asked.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from common import arguments, run
from connections import DOORS, say_hello
from figures import median, summary, target, times_table
from programs import Program
from sides import GIT, INET, NATIVE, PYTHON, Side, client, in_turn, inet, others, shell
from stage import HELLO, SOCKET, Stage

SHELL = "sh -c 'echo ...'"


def alone(stage: Stage) -> Side:
    """The shell, which answers by itself."""
    words = shell(["printf", HELLO.decode().replace("\x01", r"\001")])
    environ = stage.environ("today", plugin=False)
    return Side(SHELL, lambda: Program(words, environ, b"", errors=stage.errors))


def measure(stage: Stage, chosen: argparse.Namespace) -> dict[str, Any]:
    with others(stage) as compared, stage.service() as service:
        sides = [
            *(client(stage, service, NATIVE, door) for door in DOORS),
            *(client(stage, service, PYTHON, door) for door in DOORS),
            *compared,
            alone(stage),
            inet(stage),
        ]
        times: dict[str, list[float]] = {side.name: [] for side in sides}
        for side, counts in in_turn(sides, chosen.repeat):
            took = say_hello(side.start).took
            if counts:
                times[side.name].append(took)
    return report(times)


def report(times: dict[str, list[float]]) -> dict[str, Any]:
    """The result, as `common.run` takes it."""
    middle = {name: median(values) for name, values in times.items()}
    targets = []
    what = "lp-serve-client under sh -c, exec to first byte"
    if GIT in times:
        reached = middle[f"{NATIVE}, {SOCKET}"] / middle[GIT]
        targets.append(
            target(f"native {what}", reached, 1.3, "x git upload-pack", at_most=True)
        )
    for door in DOORS:
        python = middle[f"{PYTHON}, {door}"]
        name = f"Python {what}, {door}"
        targets.append(target(name, python * 1000, 20, "ms", at_most=True))
        targets.append(target(f"{name}, than brz", middle[INET] / python, 10))
    return {
        "text": times_table("ms to the first byte", times, INET) + "\n",
        "unit": "seconds",
        "ways": {side: summary(values) for side, values in times.items()},
        "times": times,
        "targets": targets,
    }


def main() -> int:
    return run("client", arguments(__doc__, 100, "connections each way"), measure)


if __name__ == "__main__":
    sys.exit(main())
