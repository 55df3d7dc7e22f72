# SPDX-License-Identifier: GPL-2.0-or-later

"""Chaos: connections that push and pull while their processes are killed.

`Chaos` runs in the test. It starts drivers, processes that make one connection
after another, and has them push and pull as a seeded die says. Meanwhile it
kills, by the same die, clients, workers, zygotes and services, and keeps book of
which connections it hit by that: these may fail, all others must not. It also stops
processes (SIGSTOP), as if they hung: some go on after a while, and the others are
the service's to end.

Every connection has a USER of its own, so that the title of a worker and the
log of the service say whose it is.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import os
import random
import re
import selectors
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from .victims import kind_of, read, state_of

#: Where branches are, below the root. Each driver pushes to its own; those of
#: two drivers are in one repository.
BRANCHES = ("alone-a", "alone-b", "shared/c", "shared/d")
REPOSITORIES = ("alone-a", "alone-b", "shared")

#: What happens to whom, and how often beside the others: dealt like cards, so that
#: every kind has its turn in a short run.
KINDS = {
    "client killed": 8,
    "worker killed": 8,
    "spare killed": 4,
    "zygote killed": 2,
    "service killed": 2,
    "zygote stopped": 1,
    "spare stopped": 1,
    "loader stopped": 1,
    "worker paused": 2,
    "service paused": 1,
}
#: Seconds that something is paused.
PAUSE = 2.0
#: How many kills there are for each connection.
KILLS = 0.5
#: Seconds of silence after which a connection is taken to hang.
SILENCE = 120.0

_ABANDONED = "the service and the worker were killed"
_contention = re.compile(r"LockContention|NoSuchFile.*/shared/\.bzr/repository/ind")
_path = re.compile(r"/\S+")
_fallback = re.compile("lp-serve-client: (.*); serving this connection without it")


# -- the engine ---------------------------------------------------------------


@dataclass
class Attempt:
    """One connection: what it was to do, and what came of it.

    :ivar client: the words that run the client, but for USER.
    :ivar floor: the revno that was known to be there before it began.
    :ivar pid: the client's, once it runs.
    """

    user: str
    operation: str
    target: str
    client: list[str]
    floor: int
    began: float = 0.0
    ended: float = 0.0
    pid: int = 0
    said: dict[str, Any] = field(default_factory=dict)

    @property
    def fine(self) -> bool:
        return (
            "error" not in self.said
            and self.said["status"] == 0
            and self.said["revno"] >= self.floor
        )

    @property
    def contended(self) -> bool:
        """Whether it lost against another push to the shared repository.

        That may hold the lock; and where both repack at the same time, Breezy
        does not find an index again that the other one has put away.
        """
        return (
            self.operation == "push"
            and self.target.startswith("shared/")
            and _contention.search(self.said.get("error", "")) is not None
            and self.said["status"] == 0
        )

    def __str__(self) -> str:
        words = [*self.client, self.operation, self.target]
        return f"{' '.join(words)}: {self.said}, {self.floor} before"


class Driver:
    """A driver, as the test sees it.

    :param words: its program. It is told what to do on standard input, a line
        of JSON for each connection: "push" or "pull", USER, the branch, and the
        words that run the client. On standard
        output it says USER and the client's pid in a line of JSON, and when the
        connection is over, in another, ``user``, ``status`` and ``stderr`` of
        the client, ``error`` or ``revno`` and ``revision``, and how many
        ``locks`` of the dead it had to break before.
    :param directory: to be made, for its branches.
    :param path: of the branch that it pushes to.
    """

    def __init__(
        self, words: list[str], env: dict[str, str], directory: str, path: str
    ):
        os.makedirs(directory)
        self.path = path
        self.attempt: Attempt | None = None
        self._buffer = b""
        self._log = os.path.join(directory, "log")
        with open(self._log, "wb") as log:
            self.process = subprocess.Popen(
                [*words, path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=env,
                cwd=directory,
            )

    def ask(self, attempt: Attempt) -> None:
        """Have it make a connection."""
        self.attempt = attempt
        words = [attempt.operation, attempt.user, attempt.target, attempt.client]
        os.write(self.process.stdin.fileno(), json.dumps(words).encode() + b"\n")

    def hear(self) -> Iterator[dict[str, Any]]:
        """What it has said."""
        data = os.read(self.process.stdout.fileno(), 65536)
        if not data:
            with open(self._log, encoding="utf-8") as log:
                raise AssertionError(f"a driver died: {log.read()}")
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        yield from map(json.loads, lines)

    def stop(self) -> None:
        """End it."""
        self.process.stdin.close()
        self.process.stdout.close()
        if self.attempt is not None:
            self.process.kill()
        self.process.wait()


class Chaos:
    """See the module.

    :param count: how many connections are made.
    :param clients: the words that run clients, but for USER.
    :param drive: the program of a `Driver` and its environment.
    :param directory: where drivers keep their branches.
    :param log: the path of the service's log.
    :param processes: the pids of all that may be killed, and more.
    :ivar counts: of what happened.
    :ivar reasons: why clients served a connection themselves.
    :ivar failed: the connections that failed although they were not hit.
    :ivar pushed: by branch the revisions that successful connections pushed.
    """

    def __init__(
        self,
        count: int,
        seed: int,
        clients: list[list[str]],
        drive: tuple[list[str], dict[str, str]],
        directory: str,
        log: str,
        processes: Callable[[], Iterable[int]],
    ):
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.failed: list[Attempt] = []
        self.pushed: dict[str, list[str]] = {path: [] for path in BRANCHES}
        self._left = count
        self._random = random.Random(seed)
        self._clients = clients
        self._drive = drive
        self._directory = directory
        self._log = log
        self._processes = processes
        self._drivers: list[Driver] = []
        self._revno = dict.fromkeys(BRANCHES, 0)
        self._suspects: list[Attempt] = []
        self._hit: set[str] = set()
        # When what happened to which process, if it does not go on after it.
        self._kills: list[tuple[float, str, int]] = []
        self._due: list[float] = []
        self._paused: list[tuple[float, int]] = []
        self._deck: list[str] = []
        self._usual = 1.0
        self._serial = 0

    def run(self) -> None:
        """Make all connections, and judge those that failed."""
        with contextlib.ExitStack() as stack:
            selector = stack.enter_context(selectors.DefaultSelector())
            stack.callback(self._go_on, float("inf"))
            for path in BRANCHES:
                directory = os.path.join(self._directory, path.replace("/", "-"))
                driver = Driver(*self._drive, directory, path)
                stack.callback(driver.stop)
                self._drivers.append(driver)
                selector.register(driver.process.stdout, selectors.EVENT_READ, driver)
                self._next(driver)
            heard = time.monotonic()
            while any(driver.attempt for driver in self._drivers):
                now = time.monotonic()
                pause = self._due[0] - now if self._due else 1.0
                for key, _ in selector.select(min(max(pause, 0.001), 1.0)):
                    heard = now
                    for said in key.data.hear():
                        self._heard(key.data, said)
                if now - heard > SILENCE:
                    running = [str(driver.attempt) for driver in self._drivers]
                    raise AssertionError(f"hanging: {running}")
                self._kill_due()
                self._go_on(time.monotonic())
        self._judge()

    def _next(self, driver: Driver) -> None:
        driver.attempt = None
        if self._left == 0:
            return
        self._left -= 1
        self._serial += 1
        operation = self._random.choice(("push", "push", "pull"))
        target = driver.path if operation == "push" else self._random.choice(BRANCHES)
        floor = self._revno[target] + (operation == "push")
        client = self._random.choice(self._clients)
        user = f"c{self._serial:06}"
        driver.ask(Attempt(user, operation, target, client, floor))

    def _heard(self, driver: Driver, said: dict[str, Any]) -> None:
        attempt, now = driver.attempt, time.monotonic()
        if "pid" in said:
            attempt.pid, attempt.began = said["pid"], now
            if self._random.random() < KILLS:
                moment = self._random.uniform(0, 1.2 * self._usual)
                heapq.heappush(self._due, now + moment)
            return
        attempt.said, attempt.ended = said, now
        self._usual += (now - attempt.began - self._usual) / 10
        self.counts["locks broken"] += said["locks"]
        if match := _fallback.search(said["stderr"]):
            self.counts["fallbacks"] += 1
            self.reasons[_path.sub("PATH", match.group(1))] += 1
        self.counts[attempt.operation] += 1
        if attempt.operation == "push" and "error" not in said:
            self.pushed[attempt.target].append(said["revision"])
            self._revno[attempt.target] = said["revno"]
        if attempt.fine:
            self.counts["finished"] += 1
        else:
            self._suspects.append(attempt)
        self._next(driver)

    # -- killing ---------------------------------------------------------------

    def _kill_due(self) -> None:
        while self._due and self._due[0] <= time.monotonic():
            heapq.heappop(self._due)
            if not self._deck:
                self._deck = [
                    kind for kind, share in KINDS.items() for _ in range(share)
                ]
                self._random.shuffle(self._deck)
            if self._do(*self._deck[-1].split()):
                self._deck.pop()
            else:  # there is none at this moment
                heapq.heappush(self._due, time.monotonic() + 0.02)
                self._deck.insert(0, self._deck.pop())

    def _go_on(self, now: float) -> None:
        """Let go on what was paused long enough."""
        while self._paused and self._paused[0][0] <= now:
            pidfd = self._paused.pop(0)[1]
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGCONT)
            os.close(pidfd)

    def _do(self, kind: str, what: str) -> bool:
        """Do *what* to one of *kind*; False if there is none."""
        if kind == "client":
            running = [driver.attempt for driver in self._drivers if driver.attempt]
            found = {each.pid: each.user for each in running if each.pid}
        else:
            kinds = {pid: kind_of(pid) for pid in self._processes()}
            found = {pid: user for pid, (each, user) in kinds.items() if each == kind}
        if not found:
            return False
        pid = self._random.choice(sorted(found))
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        try:
            # It may have ended, and the number be another's.
            if kind == "client" and found[pid].encode() not in read(pid, "cmdline"):
                return False
            if kind != "client" and kind_of(pid) != (kind, found[pid]):
                return False
            if what != "killed" and state_of(pid) == b"T":
                return False
            number = signal.SIGKILL if what == "killed" else signal.SIGSTOP
            signal.pidfd_send_signal(pidfd, number)
            if what == "paused":
                self._paused.append((time.monotonic() + PAUSE, os.dup(pidfd)))
        except ProcessLookupError:
            return False
        finally:
            os.close(pidfd)
        self.counts[f"{kind} {what}"] += 1
        if what != "paused":
            self._hit.add(found[pid])
            self._kills.append((time.monotonic(), f"{kind} {what}", pid))
        return True

    # -- judging ---------------------------------------------------------------

    def _judge(self) -> None:
        """Tell the connections that were hit from those that should not fail."""
        with open(self._log, encoding="utf-8") as file:
            ends = re.findall(r"worker (\d+) for (\S+): signal 9 ", file.read())
        killed = {str(pid) for _, _, pid in self._kills}
        # A worker killed as a spare one may just have been taken.
        self._hit.update(user for pid, user in ends if pid in killed)
        for attempt in self._suspects:
            if attempt.user in self._hit or self._abandoned(attempt):
                self.counts["failed, were hit"] += 1
            elif attempt.contended:
                self.counts["contended"] += 1
            else:
                self.counts["failed, were not hit"] += 1
                self.failed.append(attempt)

    def _abandoned(self, attempt: Attempt) -> bool:
        """Whether the one that could log that its worker was hit was hit, too.

        A spare worker may have been stopped before it was taken.
        """
        hit = {
            what
            for at, what, _ in self._kills
            if at < attempt.ended and (at > attempt.began or what == "spare stopped")
        }
        return (
            _ABANDONED in attempt.said["stderr"]
            and "service killed" in hit
            and bool(hit & {"spare killed", "spare stopped"})
        )
