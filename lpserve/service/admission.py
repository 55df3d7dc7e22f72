# SPDX-License-Identifier: GPL-2.0-or-later

"""Which connections may have a worker now, which wait for a place or are refused."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..wire import BUSY, DRAINING, FAILED
from .connection import Connection, Observer
from .loop import Loop
from .turns import count_down, next_in_line

#: What users read: they can do nothing about it but wait.
FULL = "the server is full, try again later"
_TOO_MANY = "too many connections are open for this {}, try again later"


@dataclass(frozen=True)
class Limits:
    """How many connections may be open at once; 0 means any number.

    :ivar workers: in all.
    :ivar per_user: of one user.
    :ivar per_address: from one address, where it is known.
    :ivar queue_timeout: seconds that another one waits for a place.
    """

    workers: int = 0
    per_user: int = 0
    per_address: int = 0
    queue_timeout: float = 0.0

    @classmethod
    def of(cls, settings: Any) -> Limits:
        """The limits in *settings*, a `settings.Settings`."""
        return cls(
            settings.max_workers,
            settings.max_workers_per_user,
            settings.max_workers_per_address,
            settings.queue_timeout,
        )


class Admission(Observer):
    """Admits connections within `Limits`, and has the others queue.

    A place that becomes free goes to the user who has the fewest connections open; of
    users who have as many, to the one whose connection has waited longest.

    :param start: called with each connection that is admitted.
    :param refused: counts refused connections, by the code of the error.
    """

    #: Connections that may queue at once: each holds up to four descriptors.
    MOST_QUEUED = 1000

    def __init__(
        self,
        loop: Loop,
        start: Callable[[Connection], None],
        refused: Counter[str],
    ):
        self.limits = Limits()
        self._loop = loop
        self._start = start
        self._refused = refused
        self._users: Counter[str] = Counter()
        self._addresses: Counter[str] = Counter()
        self._open = 0
        # In the order in which they came; a dict, because any may leave.
        self._queue: dict[Connection, None] = {}
        self._admitting = False

    @property
    def open(self) -> int:
        """How many connections have a place."""
        return self._open

    @property
    def queued(self) -> int:
        """How many connections wait for a place."""
        return len(self._queue)

    def ask(self, connection: Connection) -> None:
        """Start *connection*, now or when there is a place, or refuse it."""
        connection.observer = self
        if self._queue:
            self._admit()
        fault = self._fault(connection)
        if fault is None:
            self._let_in(connection)
        elif not self.limits.queue_timeout:
            connection.refuse(BUSY, fault)
        else:
            self._enqueue(connection)

    def use(self, limits: Limits) -> None:
        """Keep other limits from now on; what is open stays open."""
        self.limits = limits
        self._admit()

    def refuse_queued(self, code: str, text: str, user: str | None = None) -> int:
        """Refuse the connections that wait for a place; how many.

        :param user: only those of this user.
        """
        found = [each for each in self._queue if user is None or each.user == user]
        for connection in found:
            self._leave_queue(connection)
            connection.refuse(code, text)
        return len(found)

    def drained(self, text: str) -> None:
        """The host is out of service: refuse with *text* those that wait."""
        self.refuse_queued(DRAINING, text)

    def refused(self, code: str) -> None:
        """See `connection.Observer`."""
        self._refused[code] += 1

    def released(self, connection: Connection) -> None:
        """See `connection.Observer`."""
        self.count_out(connection.user, connection.address)

    def count_in(self, user: str, address: str) -> None:
        """A connection that another process serves takes a place."""
        self._open += 1
        self._users[user] += 1
        self._addresses[address] += 1

    def count_out(self, user: str, address: str) -> None:
        """It has ended."""
        self._open -= 1
        count_down(self._users, user)
        count_down(self._addresses, address)
        if self._queue and not self._admitting:
            # Later: whoever has ended the connection is in the middle of it.
            self._admitting = True
            self._loop.call_later(0, self._admit_later)

    def waiting(self) -> list[Connection]:
        """The connections that wait for a place."""
        return list(self._queue)

    def _fault(self, connection: Connection) -> str | None:
        """Why *connection* may not have a worker now, for its user; or None."""
        limits = self.limits
        if limits.workers and self._open >= limits.workers:
            return FULL
        if limits.per_user and self._users[connection.user] >= limits.per_user:
            return _TOO_MANY.format("user")
        address = connection.address
        known = limits.per_address and address
        if known and self._addresses[address] >= limits.per_address:
            return _TOO_MANY.format("address")
        return None

    def _let_in(self, connection: Connection) -> None:
        self.count_in(connection.user, connection.address)
        connection.admitted = time.monotonic()
        self._start(connection)

    def _enqueue(self, connection: Connection) -> None:
        self._queue[connection] = None
        connection.reply.on_disconnect = lambda: self._disconnected(connection)
        with contextlib.suppress(OSError):  # it leaves when its turn comes
            connection.reply.watch()
        connection.timer = self._loop.call_later(
            self.limits.queue_timeout, lambda: self._give_up(connection)
        )
        if len(self._queue) > self.MOST_QUEUED:
            users = Counter(each.user for each in self._queue)
            [(greediest, _)] = users.most_common(1)
            theirs = (each for each in reversed(self._queue) if each.user == greediest)
            self._give_up(next(theirs))

    def _leave_queue(self, connection: Connection) -> None:
        del self._queue[connection]
        if connection.timer is not None:
            connection.timer.cancel()
            connection.timer = None

    def _give_up(self, connection: Connection) -> None:
        fault = self._fault(connection) or FULL
        self._leave_queue(connection)
        connection.refuse(BUSY, fault)

    def _disconnected(self, connection: Connection) -> None:
        self._leave_queue(connection)
        connection.refuse(FAILED, "the client went away")

    def _admit_later(self) -> None:
        self._admitting = False
        self._admit()

    def _admit(self) -> None:
        """Give free places to those who wait for one."""
        while (connection := self._next()) is not None:
            self._leave_queue(connection)
            self._let_in(connection)

    def _next(self) -> Connection | None:
        if not self._queue or 0 < self.limits.workers <= self._open:
            return None
        return next_in_line(
            self._queue, self._users, lambda each: self._fault(each) is None
        )
