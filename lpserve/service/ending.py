# SPDX-License-Identifier: GPL-2.0-or-later

"""Ends connections because an administrator wants that."""

from __future__ import annotations

import contextlib
import signal
import time

from .. import channel
from ..wire import FAILED
from .admission import Admission
from .children import Child, Children
from .connection import Worker
from .loop import Loop
from .pool import Pool

#: What those read who have no worker yet.
ENDED = "the administrator has ended this connection"
#: Seconds that a worker has to tell its user, where it is to end at once.
TELLING = 0.5


class Ending:
    """Ends connections: SIGHUP, SIGTERM and SIGKILL, with time between them."""

    def __init__(
        self, loop: Loop, children: Children, pool: Pool, admission: Admission
    ):
        self._loop = loop
        self._children = children
        self._pool = pool
        self._admission = admission

    def end(self, who: str, now: bool) -> int:
        """End connections; how many.

        :param who: the pid of a worker, or else a user.
        :param now: do not let them finish what they are serving.
        """
        worker = self._pool.busy.get(int(who)) if who.isdigit() else None
        if worker is not None:
            self._end(worker, now)
            return 1
        found = self._of_user(who)
        for each in found:
            self._end(each, now)
        waiting = [each for each in self._pool.waiting if each.user == who]
        for connection in waiting:
            self._pool.waiting.remove(connection)
            connection.refuse(FAILED, ENDED)
        queued = self._admission.refuse_queued(FAILED, ENDED, who)
        return len(found) + len(waiting) + queued

    def _of_user(self, user: str) -> list[Worker]:
        return [
            each
            for each in self._pool.busy.values()
            if each.connection is not None and each.connection.user == user
        ]

    def _end(self, worker: Worker, now: bool) -> None:
        connection, child = worker.connection, worker.child
        assert connection is not None and child is not None
        patience = TELLING if now else self._pool.hangup_timeout
        soon, timer = time.monotonic() + patience, connection.timer
        if connection.evicted and timer is not None and timer.due <= soon:
            return  # it has its time already, and gets no more
        connection.evicted = True
        with contextlib.suppress(OSError):  # it is about to end, or is full of messages
            channel.send(worker.channel, "end", now=now)
        child.signal(signal.SIGHUP)
        if connection.timer is not None:
            connection.timer.cancel()
        connection.timer = self._loop.call_later(
            patience, lambda: self._terminate(child)
        )

    def _terminate(self, child: Child) -> None:
        self._children.terminate(child)
