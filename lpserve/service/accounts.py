# SPDX-License-Identifier: GPL-2.0-or-later

"""What is told of connections: of those that run, and of those that have ended."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

from .. import scoreboard
from ..channel import OUTCOMES
from .accesslog import AccessLog
from .board import Board
from .children import ExitStatus
from .connection import Connection, Worker
from .histograms import LONG, Histogram
from .moments import moment
from .processes import usage
from .records import Record
from .usages import Usages

#: How a connection ends.
RESULTS = ENDED, GONE, FAILED, EVICTED = ("ended", "gone", "failed", "evicted")
#: Connections whose lines are written at once where nobody waits for them. One alone
#: takes ten times as long as each of many, because nothing of it is in a CPU's caches.
AT_ONCE = 64


class Accounts:
    """Keeps the books: the history, the access log and what is counted.

    :param board: tells what workers have written.
    :ivar access_log: where ended connections are written to.
    :ivar forward: called with each of them and its line, once another process keeps
        the history.
    :ivar counts: "forks" (of workers), "zygote_deaths" (of zygotes in use), and
        "warm_hit" and so on, of what workers found in memory.
    """

    def __init__(self, board: Board):
        self.board = board
        self.access_log = AccessLog()
        self.forward: Callable[[Record, str], None] | None = None
        self.counts: Counter[str] = Counter()
        self._results: Counter[tuple[str, str]] = Counter()
        self._history: deque[str] = deque(maxlen=0)
        self._unwritten: list[Record] = []
        self._histograms = {
            "hand_over": Histogram(),
            "wait": Histogram(),
            "first_byte": Histogram(),
            "duration": Histogram(LONG),
        }
        self._cpu = 0.0
        self._cpu_told = 0.0
        self._usages = Usages()
        self._started = time.time()

    def keep(self, most: int, access_log: str | None) -> None:
        """Keep the last connections that have ended.

        :param most: how many of them.
        :param access_log: the path of a file that has all of them from now on, or None.
        """
        self._write()
        self.access_log.use(access_log)
        if most != self._history.maxlen:
            self._history = deque(self._history, maxlen=most)

    def close(self) -> None:
        """Write no more lines."""
        self.access_log.close()

    def handed_over(self, connection: Connection) -> None:
        """A worker has got *connection*."""
        if connection.handed_over is not None:
            seconds = connection.handed_over - connection.started
            self._histograms["hand_over"].observe(seconds)
        if connection.admitted is not None:
            seconds = connection.admitted - connection.started
            self._histograms["wait"].observe(seconds)

    def used(self, message: dict[str, Any]) -> None:
        """What a worker says of a repository that it has used."""
        if message.get("outcome") in OUTCOMES:
            self.counts[f"warm_{message['outcome']}"] += 1

    # -- those that run ----------------------------------------------------------

    def running(self, workers: Iterable[Worker]) -> list[dict[str, object]]:
        """What ``connections`` answers."""
        return [
            self._running(worker, worker.connection, worker.child.pid)
            for worker in workers
            if worker.connection is not None and worker.child is not None
        ]

    def _running(
        self, worker: Worker, connection: Connection, pid: int
    ) -> dict[str, object]:
        entry = self.board.read(worker.serial)
        cpu, memory = usage(pid)
        return {
            "pid": pid,
            "user": connection.user,
            "peer": connection.address,
            "door": connection.door,
            "since": moment(connection.started),
            "seconds": round(time.monotonic() - connection.started, 3),
            "state": "ending" if connection.evicted else entry.state,
            "verb": entry.verb,
            "repository": entry.repository,
            "requests": entry.requests,
            "bytes_in": entry.bytes_in,
            "bytes_out": entry.bytes_out,
            "cpu": cpu,
            "memory": memory,
        }

    # -- those that have ended ---------------------------------------------------

    def ended(self, connection: Connection, worker: Worker, end: ExitStatus) -> str:
        """Enter a connection that has ended; how it has: one of `RESULTS`."""
        seconds = time.monotonic() - connection.started
        how = _result(connection, end)
        snapshot = self.board.take_snapshot(worker.serial)
        first = scoreboard.first_byte_of(snapshot)
        if first is not None:
            first -= connection.started
            if 0 <= first <= seconds:
                self._histograms["first_byte"].observe(first)
            else:
                first = None
        self._histograms["duration"].observe(seconds)
        self._results[how, connection.door] += 1
        pid, cpu, memory = None, 0.0, None
        if worker.child is not None:
            pid = worker.child.pid
            if (used := worker.child.usage) is not None:
                cpu, memory = used.ru_utime + used.ru_stime, used.ru_maxrss << 10
        self._cpu += cpu
        who = (pid, connection.user, connection.address, connection.door)
        times = (time.time(), seconds, first)
        streams = connection.streams
        record = Record(*who, how, end, *times, snapshot, cpu, memory, streams)
        self._unwritten.append(record)
        at_once = self.access_log.path is not None or self.forward is not None
        if at_once or len(self._unwritten) >= AT_ONCE:
            self._write()
        return how

    def _write(self) -> None:
        """Make lines of those that have ended since this was called last."""
        for record in self._unwritten:
            line = record.line()
            self._history.append(line)
            self.access_log.write(line)
            if self.forward is not None:
                self.forward(record, line)
        self._unwritten.clear()

    def take_over(self, lines: Iterable[str]) -> None:
        """Have in the history what another process has written down."""
        self._history.extend(lines)

    def ended_elsewhere(self, line: str, how: str, door: str) -> None:
        """Enter a connection that another process has served to its end."""
        self._history.append(line)
        self._results[how, door] += 1

    def lines(self) -> list[str]:
        """The history."""
        self._write()
        return list(self._history)

    def history(self, most: int | None) -> str:
        """What ``history`` answers: JSON; the last one is the last."""
        found = self.lines()
        if most is not None:
            found = found[len(found) - most :] if most < len(found) else found
        return f"[{', '.join(found)}]"

    # -- metrics -----------------------------------------------------------------

    def metrics(
        self,
        service: int,
        zygote: int | None,
        workers: Iterable[int],
    ) -> dict[str, object]:
        """What ``metrics`` answers of connections and processes.

        :param service, zygote, workers: their pids.
        """
        running, memory = self._usages.read(workers)
        # Nobody counts a worker between its last word and its end.
        cpu = self._cpu_told = max(self._cpu + running, self._cpu_told)
        return {
            "started": round(self._started, 3),
            "connections": [
                {
                    "result": result,
                    "door": door,
                    "count": self._results[result, door],
                }
                for result in RESULTS
                for door in ("fifo", "socket")
            ],
            "forks": self.counts["forks"],
            "zygote_deaths": self.counts["zygote_deaths"],
            "warm": {name: self.counts[f"warm_{name}"] for name in OUTCOMES},
            "histograms": {
                name: each.tell() for name, each in self._histograms.items()
            },
            "access_log_lost": self.access_log.lost,
            "processes": {
                "service": _usage(usage(service)),
                "zygote": _usage(usage(zygote) if zygote else (0.0, 0)),
                "workers": _usage((cpu, memory)),
            },
        }


def _result(connection: Connection, end: ExitStatus) -> str:
    if connection.evicted:
        return EVICTED
    if end.clean:
        return ENDED
    return GONE if connection.client_gone else FAILED


def _usage(found: tuple[float, int]) -> dict[str, object]:
    return {"cpu": round(found[0], 2), "memory": found[1]}
