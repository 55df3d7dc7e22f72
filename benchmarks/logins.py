# SPDX-License-Identifier: GPL-2.0-or-later

"""Logins per second to lp-serve-ssh with one process and two; hand-overs per second.

The clients (sshlogin.py) log in and hang up, some at once, in a closed loop. They take
a part of the processors, so the CPU time of a login in the server tells how many more
logins a second processor makes possible. Then the ceiling of
one service: connections through its socket that end before they begin, so that workers
do nothing but come and go.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import selectors
import sys
import time

from accounts import cpu_of
from connections import NOTHING, SocketConnection
from runner import Result, in_rounds, options, ratios, run
from sshlogin import Key, Login
from sshstage import SshServer
from stage import DEADLINE, USER, BenchmarkError, Service, Stage

#: Logins and hand-overs of a side in each round.
_LOGINS, _HAND_OVERS = 400, 500
ONE, TWO = "1 process", "2 processes"
SERVER = "all processes"
#: Spare workers for the hand-overs: as many as there are by default, and more.
_SPARES = (2, 16)


class Logins:
    """Logins to one server.

    :ivar costs: CPU milliseconds of a login in the front, in all processes and in the
        clients; each round.
    """

    def __init__(self, server: SshServer, clients: int):
        self._server = server
        self._key = Key(os.path.join(server.directory, USER))
        self._clients = clients
        self.costs: dict[str, list[float]] = {}

    def round(self) -> float:
        """Logins per second."""
        pids = [self._server.pid, *self._server.children()]
        before = [cpu_of(pid) for pid in pids]
        ours, began = _own(), time.perf_counter()
        self._log_in(_LOGINS)
        took = time.perf_counter() - began
        used = [cpu_of(pid) - each for pid, each in zip(pids, before)]
        for name, seconds in (
            ("the process that listens", used[0]),
            (SERVER, sum(used)),
            ("the clients", _own() - ours),
        ):
            self.costs.setdefault(name, []).append(seconds / _LOGINS * 1000)
        return _LOGINS / took

    def _log_in(self, count: int) -> None:
        with selectors.DefaultSelector() as selector:
            left = count

            def begin() -> None:
                nonlocal left
                left -= 1
                made = Login(self._server.port, USER, self._key)
                selector.register(made.sock, selectors.EVENT_READ, made)

            for _ in range(self._clients):
                begin()
            while selector.get_map():
                ready = selector.select(DEADLINE)
                if not ready:
                    raise BenchmarkError("logins hang")
                for key, _ in ready:
                    if key.data.hear():
                        selector.unregister(key.fileobj)
                        key.data.sock.close()
                        if left > 0:
                            begin()


def _own() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class HandOvers:
    """Connections through the socket of *service* that say nothing.

    :ivar costs: CPU milliseconds of each in service, zygote and this process.
    """

    def __init__(self, service: Service, clients: int):
        self._service = service
        self._clients = clients
        self.costs: dict[str, list[float]] = {}

    def round(self) -> float:
        """Hand-overs per second."""
        pids = {"service": self._service.pid, "zygote": self._service.zygote}
        before = {name: cpu_of(pid) for name, pid in pids.items()}
        ours, began = _own(), time.perf_counter()
        self._hand_over(_HAND_OVERS)
        took = time.perf_counter() - began
        used = {name: cpu_of(pid) - before[name] for name, pid in pids.items()}
        for name, seconds in {**used, "the clients": _own() - ours}.items():
            self.costs.setdefault(name, []).append(seconds / _HAND_OVERS * 1000)
        return _HAND_OVERS / took

    def _hand_over(self, count: int) -> None:
        with selectors.DefaultSelector() as selector:
            left = count

            def begin() -> None:
                nonlocal left
                left -= 1
                made = SocketConnection(self._service, NOTHING)
                made.hang_up()
                selector.register(made.descriptor, selectors.EVENT_READ, made)

            for _ in range(self._clients):
                begin()
            while selector.get_map():
                ready = selector.select(DEADLINE)
                if not ready:
                    raise BenchmarkError("hand-overs hang")
                for key, _ in ready:
                    if _has_ended(selector, key.data) and left > 0:
                        begin()


def _has_ended(selector: selectors.BaseSelector, made: SocketConnection) -> bool:
    """Read an answer; whether it was the last one."""
    selector.unregister(made.descriptor)
    if made.ended():
        return True
    selector.register(made.descriptor, selectors.EVENT_READ, made)
    return False


def measure(stage: Stage, chosen: argparse.Namespace) -> Result:
    result = Result()
    with contextlib.ExitStack() as stack:
        logins: dict[str, Logins] = {}
        for name, count in ((ONE, 1), (TWO, 2)):
            environ = stage.service(
                f"ssh-{count}", ssh_processes=count, max_startups=1000
            ).environ
            server = stack.enter_context(SshServer(stage, f"ssh-{count}", environ))
            logins[name] = Logins(server, chosen.clients)
        rates = in_rounds({n: each.round for n, each in logins.items()}, chosen.repeat)
    result.figures(f"logins per second, {chosen.clients} at once", rates)
    # What the clients cost would be elsewhere, on other hosts.
    costs = {
        name: each.costs[SERVER][-chosen.repeat :] for name, each in logins.items()
    }
    more = [2 * each for each in ratios(costs[ONE], costs[TWO])]
    result.figures("logins that 2 processors can do for each that 1 does", {TWO: more})
    result.target("by CPU time, 2 processors and processes", more, 1.7)
    for name, each in logins.items():
        costs = {what: values[-chosen.repeat :] for what, values in each.costs.items()}
        result.figures(f"CPU ms of a login, {name}", costs)
    hand_overs(stage, result, chosen)
    return result


def hand_overs(stage: Stage, result: Result, chosen: argparse.Namespace) -> None:
    """Measure the ceiling of one service."""
    with contextlib.ExitStack() as stack:
        made: dict[str, HandOvers] = {}
        for spares in _SPARES:
            service = stack.enter_context(
                stage.service(f"spares-{spares}", spare_workers=spares)
            )
            made[f"{spares} spare workers"] = HandOvers(service, chosen.clients)
        ways = {name: each.round for name, each in made.items()}
        rates = in_rounds(ways, chosen.repeat)
    result.figures(f"hand-overs per second, {chosen.clients} at once", rates)
    for name, each in made.items():
        costs = {what: values[-chosen.repeat :] for what, values in each.costs.items()}
        result.figures(f"CPU ms of a hand-over, {name}", costs)


if __name__ == "__main__":
    parser = options(
        __doc__,
        repeat=(10, "rounds, of 400 logins and 500 hand-overs each way"),
        clients=(8, "clients at once"),
    )
    sys.exit(run(parser, measure))
