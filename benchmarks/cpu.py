# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""What a connection costs: CPU seconds, and the memory of one that is idle.

A connection says ``hello``, hears the answer and ends. Counted is everything that
it takes: with lpserve the service, the zygote with what it forks through, the
worker and the client process; today ``brz serve --inet``.

Memory is the proportional set size (PSS) of all these processes, where a page that
N processes share counts 1/N for each: what the connections add to it, by
connection. A lpserve without connections is not free, so that is shown too.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any

from common import (
    Direct,
    Service,
    Stage,
    arguments,
    check_hello,
    finish,
    run,
    wait_until,
)
from figures import median, ms, summary, table

_TICKS = os.sysconf("SC_CLK_TCK")
SERVICE, ZYGOTE, WORKER, CLIENT = "service", "zygote", "worker", "lp-serve-client"
INET = "brz serve --inet"
#: Connections of each side in one round.
PER_ROUND = 25


# -- CPU ----------------------------------------------------------------------


def cpu_of(pid: int) -> tuple[float, float]:
    """CPU seconds of *pid* itself and of the children that it has reaped."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    user, system, children_user, children_system = map(int, fields[11:15])
    return (user + system) / _TICKS, (children_user + children_system) / _TICKS


def cpu_of_service(service: Service) -> dict[str, float]:
    """CPU seconds so far by part; workers count when they have ended."""
    own, workers = cpu_of(service.pid)
    # Of the zygote's children only the middle processes are reaped by it.
    return {SERVICE: own, WORKER: workers, ZYGOTE: sum(cpu_of(service.zygote))}


def say_hello(start: Callable[[], subprocess.Popen[bytes]]) -> float:
    """One connection through a process, and the CPU seconds of that."""
    process = start()
    os.write(process.stdin.fileno(), b"hello\n")
    check_hello(read_answer(process))
    return finish(process)


def read_answer(process: subprocess.Popen[bytes]) -> bytes:
    """The answer to hello, up to its newline."""
    answer = b""
    while not answer.endswith(b"\n"):
        chunk = os.read(process.stdout.fileno(), 64)
        if not chunk:
            break
        answer += chunk
    return answer


def wait_for_spares(service: Service) -> None:
    """Wait until the connections are over, without asking the service."""
    wait_until(
        lambda: len(service.children()) == 1 + service.spares, "spare workers only"
    )


def measure_cpu(stage: Stage, service: Service, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of connections, by part, one value for each of the rounds.

    The kernel shows them in ticks of 10 ms, so a round has many connections.
    """
    found: dict[str, list[float]] = {
        name: [] for name in (SERVICE, ZYGOTE, WORKER, CLIENT, INET)
    }
    say_hello(service.client)
    say_hello(stage.inet)
    for _ in range(rounds):
        wait_for_spares(service)
        before = cpu_of_service(service)
        clients = []
        today = []
        for _ in range(PER_ROUND):
            clients.append(say_hello(service.client))
            today.append(say_hello(stage.inet))
        wait_for_spares(service)
        for name, seconds in cpu_of_service(service).items():
            found[name].append((seconds - before[name]) / PER_ROUND)
        found[CLIENT].append(sum(clients) / PER_ROUND)
        found[INET].append(sum(today) / PER_ROUND)
    return found


# -- memory -------------------------------------------------------------------


def pss(pids: Iterable[int]) -> float:
    """The proportional set size of *pids* together, in MiB."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            lines = [line.split() for line in file]
        total += sum(int(words[1]) for words in lines if words[0] == "Pss:")
    return total / 1024


def service_pids(service: Service) -> list[int]:
    return [service.pid, *service.children()]


def measure_memory(stage: Stage, service: Service, idle: int) -> dict[str, float]:
    """MiB of PSS by connection, of both sides and of lpserve's parts."""
    service.settle()
    empty = pss(service_pids(service))
    direct = [Direct(service) for _ in range(idle)]
    try:
        for each in direct:
            each.hello()
        wait_for_children(service, idle)
        workers = (pss(service_pids(service)) - empty) / idle
    finally:
        for each in direct:
            each.finish()
    service.settle()
    clients = hold(service.client, idle)
    try:
        wait_for_children(service, idle)
        pids = [each.pid for each in clients]
        both = (pss([*service_pids(service), *pids]) - empty) / idle
    finally:
        for process in clients:
            finish(process)
    today = hold(stage.inet, idle)
    try:
        inet = pss(each.pid for each in today) / idle
    finally:
        for process in today:
            finish(process)
    return {
        "lpserve": both,
        WORKER: workers,
        CLIENT: both - workers,
        INET: inet,
        "lpserve without connections": empty,
    }


def hold(
    start: Callable[[], subprocess.Popen[bytes]], idle: int
) -> list[subprocess.Popen[bytes]]:
    """Connections that have said hello and now do nothing."""
    processes = [start() for _ in range(idle)]
    for each in processes:
        os.write(each.stdin.fileno(), b"hello\n")
    for each in processes:
        check_hello(read_answer(each))
    return processes


def wait_for_children(service: Service, idle: int) -> None:
    """Wait until the spare workers are as many as without connections."""
    wait_until(
        lambda: len(service.children()) == 1 + service.spares + idle,
        "the spare workers beside the busy ones",
    )


# -- the program --------------------------------------------------------------


def measure(stage: Stage, chosen: argparse.Namespace) -> dict[str, Any]:
    with stage.service() as service:
        cpu = measure_cpu(stage, service, chosen.repeat)
        memory = measure_memory(stage, service, chosen.idle)
    parts = (SERVICE, ZYGOTE, WORKER, CLIENT)
    ours = [sum(each) for each in zip(*(cpu[name] for name in parts), strict=False)]
    rows = []
    for name, values in [("lpserve", ours), *cpu.items()]:
        shown = name if name in ("lpserve", INET) else f"  {name}"
        found = summary(values)
        rows.append([shown, *(ms(found[n]) for n in ("median", "p99", "min", "max"))])
    cpu_ratio = median(cpu[INET]) / median(ours)
    memory_ratio = memory[INET] / memory["lpserve"]
    text = table(
        ["CPU ms per connection", "median", "p99", "min", "max"],
        rows,
    )
    text += f"of {chosen.repeat} rounds of {PER_ROUND} connections\n\n"
    shown = {name: f"  {name}" for name in (WORKER, CLIENT)}
    text += table(
        [f"PSS of each of {chosen.idle} idle connections", "MiB"],
        [[shown.get(name, name), f"{size:.2f}"] for name, size in memory.items()],
    )
    text += (
        f"\nbrz serve --inet takes {cpu_ratio:.1f} times the CPU time and "
        f"{memory_ratio:.1f} times the memory\n"
    )
    return {
        "text": text,
        "cpu_unit": "seconds",
        "cpu": {
            "lpserve": summary(ours),
            **{name: summary(values) for name, values in cpu.items()},
        },
        "cpu_ratio": cpu_ratio,
        "memory_unit": "MiB",
        "memory": memory,
        "memory_ratio": memory_ratio,
        "idle": chosen.idle,
        "per_round": PER_ROUND,
    }


def main() -> int:
    parser = arguments(
        __doc__.partition("\n")[0], 8, f"rounds of {PER_ROUND} connections each way"
    )
    parser.add_argument(
        "--idle",
        type=int,
        default=20,
        metavar="K",
        help="idle connections to weigh (default: 20)",
    )
    return run("cpu", parser, measure)


if __name__ == "__main__":
    sys.exit(main())
