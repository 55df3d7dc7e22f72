# SPDX-License-Identifier: GPL-2.0-or-later

"""How the service stops: connections finish, then SIGTERM, then SIGKILL."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable

from ..wire import STOPPING
from .admission import Admission
from .children import LET_GO, Children
from .door import Doors
from .loop import Callback, Loop
from .pool import Pool
from .zygotes import Zygotes

log = logging.getLogger("lpserve")

#: Seconds that clients have for their request if they connected at a door of systemd's
#: just before a stop.
LAST_REQUESTS = 0.2

_TEXT = "the service is stopping"


class Shutdown:
    """Stops the loop when nothing is left to wait for.

    :param begun: called when the service begins to stop.
    :param patience: returns the seconds that running connections may take to finish.
    :param elsewhere: whether other processes have connections that are to finish.
    :ivar stopping: whether the service takes no more connections.
    :ivar handed_over: whether another process has the doors.
    """

    def __init__(
        self,
        loop: Loop,
        children: Children,
        doors: Doors,
        pool: Pool,
        admission: Admission,
        zygotes: Zygotes,
        begun: Callback,
        patience: Callable[[], float],
        elsewhere: Callable[[], bool],
    ):
        self.stopping = self.handed_over = False
        self._loop = loop
        self._children = children
        self._doors = doors
        self._pool = pool
        self._admission = admission
        self._zygotes = zygotes
        self._begun = begun
        self._patience = patience
        self._elsewhere = elsewhere
        self._leaving = self._finishing = False

    def hand_over(self) -> None:
        """Finish what there is, however long that takes: another process serves."""
        self.handed_over = True
        self._pool.resize(0)
        self.finish_if_done()

    def stop(self, now: bool) -> None:
        """Take no more connections; running ones finish, or end *now*."""
        if not self._leaving:
            self._leaving = True
            if self._doors.leave() and not now:
                # Clients that have connected may send their request.
                self._loop.call_later(LAST_REQUESTS, lambda: self.stop(now=False))
                return
        if not self.stopping:
            self.stopping = self._pool.stopping = True
            log.info("stopping; %d connections to finish", len(self._pool.busy))
            if not self._doors.lasting:
                self._admission.refuse_queued(STOPPING, _TEXT)
            self._pool.resize(0)
            self._begun()
            self._loop.call_later(self._patience(), self._terminate)
        if now:
            self._terminate()
        self.finish_if_done()

    def _terminate(self) -> None:
        self._admission.refuse_queued(STOPPING, _TEXT)
        while self._pool.waiting:
            self._pool.waiting.popleft().refuse(STOPPING, _TEXT)
        self._pool.signal_all(signal.SIGTERM)
        self._loop.call_later(LET_GO, self._kill_rest)
        self.finish_if_done()

    def _kill_rest(self) -> None:
        """Kill the children that have not ended after SIGTERM."""
        self._children.kill_all()
        self._loop.call_later(LET_GO, self._leave_rest)

    def _leave_rest(self) -> None:
        log.error("%d processes cannot be killed", len(self._children))
        self._loop.stop()

    def finish_if_done(self) -> None:
        """Stop the loop if the service is stopping and no child is left."""
        if not (self.stopping or self.handed_over):
            return
        if self._pool.busy or self._pool.waiting or self._admission.queued:
            return
        if self._doors.unasked if self.handed_over else self._elsewhere():
            return
        self._zygotes.retire()
        if not len(self._children):
            self._loop.stop()
        elif not self._finishing:
            # They end at once, except one that is stopped or hangs.
            self._finishing = True
            self._loop.call_later(LET_GO, self._kill_rest)
