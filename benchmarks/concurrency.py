# SPDX-License-Identifier: GPL-2.0-or-later

"""Many connections at once: how long each waits, and whether all are served.

Each asks for a server, opens it, says ``hello``, holds the connection until all of
them have their answers, and ends. Its time is from its own request (or exec) to
the first byte of the answer. One thread drives them all and waits for whichever is
ready, so that it measures the other side and not itself.
"""

from __future__ import annotations

import argparse
import selectors
import sys
import time
from collections.abc import Callable
from typing import Any

from common import add_number, arguments, run
from connections import DOORS, Connection
from figures import ms, summary, table
from sides import IN_PROCESS, INET, NATIVE, Side, client, in_process, inet
from stage import DEADLINE, BenchmarkError, Stage, conversation

#: How many at once, by this process and by programs; more of these would measure
#: the machine's memory.
AT_ONCE = {IN_PROCESS: (1, 10, 100, 500), NATIVE: (1, 10, 100), INET: (1, 10, 100)}


def at_once(
    begin: Callable[[], Connection], count: int
) -> tuple[list[float], float, list[str]]:
    """*count* connections at once.

    :returns: the seconds that those took that were answered, the seconds until
        all were, and why others were not.
    """
    failures: list[str] = []
    attempts: list[Connection] = []
    started = time.perf_counter()
    with selectors.DefaultSelector() as selector:

        def watch(attempt: Connection) -> None:
            selector.register(attempt.descriptor, selectors.EVENT_READ, attempt)

        for _ in range(count):
            try:
                attempts.append(begin())
                watch(attempts[-1])
            except (OSError, conversation.NoService) as error:
                failures.append(f"not begun: {error}")
        end = time.monotonic() + DEADLINE
        while selector.get_map() and time.monotonic() < end:
            for key, _ in selector.select(end - time.monotonic()):
                selector.unregister(key.fd)
                try:
                    if not key.data.hear():
                        watch(key.data)
                except (BenchmarkError, OSError) as error:
                    failures.append(str(error))
        failures += ["not answered in time"] * len(selector.get_map())
    answered = time.perf_counter() - started
    for attempt in attempts:
        attempt.hang_up()
    for attempt in attempts:
        try:
            attempt.finish()
        except (BenchmarkError, OSError, conversation.NoService) as error:
            failures.append(str(error))
    took = [each.took for each in attempts if each.came is not None]
    return took, answered, failures


def measure(stage: Stage, chosen: argparse.Namespace) -> dict[str, Any]:
    with stage.service(max_workers=0) as service:
        sides: list[tuple[Side, tuple[int, ...]]] = []
        for door in DOORS:
            sides.append((in_process(service, door), AT_ONCE[IN_PROCESS]))
            sides.append((client(stage, service, NATIVE, door), AT_ONCE[NATIVE]))
        sides.append((inet(stage), AT_ONCE[INET]))
        begin = {side.name: side.start for side, _ in sides}
        levels = [
            (side.name, count)
            for count in sorted({each for _, counts in sides for each in counts})
            for side, counts in sides
            if count in counts and count <= chosen.at_most
        ]
        times: dict[tuple[str, int], list[float]] = {level: [] for level in levels}
        whole: dict[tuple[str, int], list[float]] = {level: [] for level in levels}
        failures: dict[tuple[str, int], list[str]] = {level: [] for level in levels}
        for start in begin.values():
            at_once(start, 1)  # to warm the disk's cache
        for _ in range(chosen.repeat):
            for level in levels:
                service.settle()
                found, answered, failed = at_once(begin[level[0]], level[1])
                times[level] += found
                whole[level].append(answered)
                failures[level] += failed
        faults = service.settle()["totals"]["faults"]
    return report(times, whole, failures, faults)


def report(
    times: dict[tuple[str, int], list[float]],
    whole: dict[tuple[str, int], list[float]],
    failures: dict[tuple[str, int], list[str]],
    faults: int,
) -> dict[str, Any]:
    """The result, as `common.run` takes it."""
    rows = []
    figures = []
    for (way, count), values in times.items():
        found = summary(values or [0.0])
        last = summary(whole[way, count])["median"]
        failed = failures[way, count]
        shown = [ms(found[name]) for name in ("median", "p99", "max")]
        rows.append([way, count, *shown, ms(last), len(failed)])
        figures.append(
            {
                "way": way,
                "at_once": count,
                "all_answered": last,
                "failures": len(failed),
                **found,
            }
        )
    head = ["ms to the first byte", "at once", "median", "p99", "max"]
    lines = [
        f"{count} at once through {way}: {len(failed)} failed, the first: {failed[0]}"
        for (way, count), failed in failures.items()
        if failed
    ]
    if faults:
        lines.append(f"the service logged {faults} faults")
    return {
        "text": table([*head, "all answered", "failures"], rows) + "\n",
        "unit": "seconds",
        "figures": figures,
        "failures": lines,
    }


def main() -> int:
    parser = arguments(__doc__, 3, "rounds")
    add_number(parser, "at-most", 500, "most connections at once")
    return run("concurrency", parser, measure)


if __name__ == "__main__":
    sys.exit(main())
