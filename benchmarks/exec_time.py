# SPDX-License-Identifier: GPL-2.0-or-later

"""An SSH server with Conch: from the exec request to the first byte of an answer.

A client logs in once to each of two servers and then opens a session for every
measurement, in turn:

* an SSH server as small as Conch allows, in a process of its own, which has each
  command executed by ``reactor.spawnProcess`` of 'brz serve --inet' (today's way),
  or by a worker through `lpserve.conch`, or answers by itself: what ssh costs;
* a real 'brz lp-serve-ssh'.

The client is Conch's, too. It sends ``hello`` right behind the request, and the
time begins when it sends the request. Needs Twisted, as lp-serve-ssh does.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import sys
from collections.abc import Coroutine
from multiprocessing.connection import Connection as Pipe
from typing import Any

from common import arguments, run
from conchstage import ALONE, SPAWN, WORKER, at_once, log_in, serve
from figures import median, ms, summary, table, target, times_table
from sshstage import COMMAND, SshServer, make_key
from stage import BenchmarkError, Service, Stage
from twisted.internet import defer
from twisted.python.failure import Failure

SERVER = "lp-serve-ssh"
#: Of one session of the small server, in the order in which they happen.
PHASES = ("request there", "the service's ok", "first byte", "back at the client")
#: How many sessions at once; lp-serve-ssh lets a client have no more.
AT_ONCE = 10


def finished(work: Coroutine[Any, Any, Any]) -> Any:
    """Run the reactor until *work* is done; what it returns."""
    from twisted.internet import reactor

    results: list[Any] = []

    def end(ignored: object) -> None:
        if reactor.running:  # not if it was stopped by a signal
            reactor.stop()

    def begin() -> None:
        done = defer.Deferred.fromCoroutine(work)
        done.addBoth(results.append).addBoth(end)

    reactor.callWhenRunning(begin)
    reactor.run()
    if not results:
        raise KeyboardInterrupt
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return results[0]


def measure(stage: Stage, chosen: argparse.Namespace) -> dict[str, Any]:
    key = os.path.join(stage.path, "key")
    make_key(key)
    context = multiprocessing.get_context("spawn")
    with stage.service() as service:
        ours, theirs = context.Pipe()
        server = context.Process(
            target=serve,
            args=(
                theirs,
                service.directory,
                key,
                stage.inet_words(),
                stage.environ("today", plugin=False),
            ),
        )
        server.start()
        try:
            theirs.close()
            with SshServer(stage, "lp-serve-ssh", service.environ) as real:
                work = measure_sessions(
                    service, chosen.repeat, ours, (ours.recv(), key), real
                )
                return report(*finished(work))
        except EOFError:
            raise BenchmarkError("the small server has ended") from None
        finally:
            server.terminate()
            server.join()


async def measure_sessions(
    service: Service, repeat: int, pipe: Pipe, small: tuple[int, str], real: SshServer
) -> tuple[dict[str, list[float]], dict[str, Any], dict[str, list[float]]]:
    """The times of each way, the phases of those in the small server, and of many."""
    ways = [ALONE, WORKER, SPAWN, SERVER]
    conns = dict.fromkeys(ways, await log_in(*small))
    conns[SERVER] = await log_in(real.port, real.key)
    times: dict[str, list[float]] = {way: [] for way in ways}
    many: dict[str, list[float]] = {way: [] for way in ways}
    phases: dict[str, list[list[float]]] = {way: [] for way in ways[:3]}

    async def take(way: str, count: int) -> tuple[list[list[float]], list[Any]]:
        service.settle()
        command = COMMAND if way == SERVER else way
        found = await at_once(conns[way], command, count)
        return found, [] if way == SERVER else [pipe.recv() for _ in found]

    for number in range(-2, repeat):
        turn = number % len(ways)
        for way in ways[turn:] + ways[:turn]:
            found, inside = await take(way, 1)
            if number < 0:  # these warm the disk's cache
                continue
            times[way].append(found[0][1] - found[0][0])
            if inside:
                moments = [found[0][0], *inside[0], found[0][1]]
                phases[way].append([b - a for a, b in itertools.pairwise(moments)])
    for number in range(max(1, repeat // 10)):
        turn = number % len(ways)
        for way in ways[turn:] + ways[:turn]:
            found, _ = await take(way, AT_ONCE)
            many[way] += [end - begin for begin, end in found]
    return times, phases, many


def report(
    times: dict[str, list[float]],
    phases: dict[str, list[list[float]]],
    many: dict[str, list[float]],
) -> dict[str, Any]:
    """The result, as `common.run` takes it."""
    text = ""
    for title, found in (
        ("ms to the first byte", times),
        (f"{AT_ONCE} sessions at once", many),
    ):
        text += times_table(title, found, SPAWN) + "\n"
    parts = {way: list(map(median, zip(*found))) for way, found in phases.items()}
    text += table(
        ["of which (medians)", *PHASES],
        [[way, *map(ms, found)] for way, found in parts.items()],
    )
    today = median(times[SPAWN])
    return {
        "text": text + "\n",
        "unit": "seconds",
        "ways": {way: summary(values) for way, values in times.items()},
        "at_once": {way: summary(values) for way, values in many.items()},
        "phases": {way: dict(zip(PHASES, found)) for way, found in parts.items()},
        "times": times,
        "targets": [
            target("Conch, a worker", today / median(times[WORKER]), 20),
            target("lp-serve-ssh", today / median(times[SERVER]), 20),
        ],
    }


def main() -> int:
    parser = arguments(__doc__, 100, "sessions each way")
    return run("exec_time", parser, measure)


if __name__ == "__main__":
    sys.exit(main())
