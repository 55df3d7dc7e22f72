# SPDX-License-Identifier: GPL-2.0-or-later

"""The time to the first byte while the service reloads, or is upgraded.

Connections come at a fixed rate, whatever becomes of those before. After an upgrade of
Breezy or of a package that it uses, a reload starts a new zygote; after one of lpserve
it is an upgrade of the service, which starts a new service and its zygote.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
import threading
import time
from statistics import median

from connections import SocketConnection, say_hello
from runner import Result, in_rounds, options, percentile, run
from stage import DEADLINE, BenchmarkError, Service, Stage, conversation

#: Connections in a second.
RATE = 50
#: What is under way, and the seconds of the first.
NOTHING, RELOAD, UPGRADE = "nothing", "reload", "upgrade"
QUIET = 2.0
#: The most milliseconds to the first byte.
WANTED = 1000


def measure(stage: Stage, chosen: argparse.Namespace) -> Result:
    with stage.service() as service:
        kinds = {
            kind: functools.partial(first_bytes, service, kind)
            for kind in (NOTHING, RELOAD, UPGRADE)
        }
        rounds = in_rounds(kinds, chosen.repeat, warm=1)
    result = Result()
    for title, figure in (
        ("longest", max),
        ("median", median),
        ("p99", functools.partial(percentile, part=0.99)),
    ):
        values = {kind: list(map(figure, found)) for kind, found in rounds.items()}
        result.figures(f"ms to the first byte, {title}", values)
        if figure is max:
            longest = values
    for kind in (RELOAD, UPGRADE):
        what = f"longest time to the first byte, {kind}"
        result.target(what, longest[kind], WANTED, "ms", at_most=True)
    return result


def first_bytes(service: Service, kind: str) -> list[float]:
    """Milliseconds to the first byte, for each connection while *kind* is under way.

    :raises BenchmarkError: if a connection is refused or cut.
    """
    service.settle()
    over = threading.Event()
    found: list[float] = []
    faults: list[BaseException] = []

    def connect(due: float) -> None:
        try:
            while not over.wait(max(0.0, due - time.monotonic())):
                start = functools.partial(SocketConnection, service)
                found.append(say_hello(start).took)
                # What it has missed is left out.
                due += math.ceil(time.monotonic() - due)
        except BaseException as error:
            faults.append(error)

    now = time.monotonic()
    dues = [now + number / RATE for number in range(RATE)]
    threads = [threading.Thread(target=connect, args=(due,)) for due in dues]
    for each in threads:
        each.start()
    try:
        if kind == NOTHING:
            time.sleep(QUIET)
        else:
            answer = conversation.ask(service.directory, [kind], DEADLINE)
            if answer[0] != "ok":
                raise BenchmarkError(f"{kind}: {answer}")
    finally:
        over.set()
        for each in threads:
            each.join()
    if faults:
        raise BenchmarkError(f"{kind}: {faults[0]}")
    return found


if __name__ == "__main__":
    sys.exit(run(options(__doc__, repeat=(10, "times each kind")), measure))
