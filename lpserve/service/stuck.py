# SPDX-License-Identifier: GPL-2.0-or-later

"""Workers that are stuck: stopped, or waiting for what does not come; and what a
service that was killed has left stopped."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time

from .. import channel
from ..paths import RuntimeDirectory
from .pool import Pool
from .processes import processes, read

log = logging.getLogger("lpserve")

#: Pings in a row that a spare worker may leave unanswered.
MAX_SILENT = 2
#: Seconds that it may take at least; that a worker may need beside those that its
#: client has.
GRACE = 10.0


class StuckWorkers:
    """Finds them and kills them; to be called as often as the service keeps house."""

    def __init__(self, pool: Pool, directory: RuntimeDirectory):
        self._pool = pool
        self._directory = directory
        # When each directory of a connection that is still there was first seen.
        self._seen: dict[str, float] = {}

    def end_spares(self) -> None:
        """Kill spare workers that do not answer; have all show that they live.

        Pings are counted, and not time alone: a service that was stopped itself has
        sent none.
        """
        now = time.monotonic()
        for worker in list(self._pool.spares):
            assert worker.child is not None
            if worker.silent == 0:
                worker.silent_since = now
            worker.silent += 1
            if worker.silent > MAX_SILENT and now - worker.silent_since >= GRACE:
                log.error("spare worker %d hangs: killing it", worker.child.pid)
                self._pool.discard(worker)
                continue
            with contextlib.suppress(OSError):  # it has ended, or is full of pings
                channel.send(worker.channel, "ping")

    def end_connections(self, patience: float) -> None:
        """Kill workers that neither get their FIFOs opened nor give up.

        And remove directories of connections that nobody holds: whoever should
        have was killed, and so was the service that would have done it. There are
        directories only of clients that are about to connect, so this takes no
        time.

        :param patience: seconds that a client may take to open its FIFOs.
        """
        paths = self._directory.connection_paths()
        busy = {
            worker.connection.path: worker
            for worker in (self._pool.busy.values() if paths else ())
            if worker.connection is not None
        }
        now = time.monotonic()
        self._seen = {path: self._seen.get(path, now) for path in paths}
        for path, since in self._seen.items():
            worker = busy.get(path)
            if worker is None:
                self._directory.clear_connection(path)
            elif now - since > patience + GRACE and worker.child is not None:
                log.error("worker %d hangs: killing it", worker.child.pid)
                worker.child.signal(signal.SIGKILL)


def kill_orphans() -> None:
    """Kill what a killed service left stopped: spare workers, a zygote that began.

    Any other ends by itself, or was killed with it. A worker that serves has
    another title.
    """
    for each in processes():
        if each.state != b"T" or each.title.startswith(b"lp:"):
            continue
        parent = read(each.parent, "cmdline").split(b"\0")
        ours = read(each.pid, "cmdline").split(b"\0")
        if not {b"lp-serve", b"--zygote"} <= {*ours}:
            continue
        if not {b"--fork-server", b"--zygote"} & {*parent}:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(each.pid, signal.SIGKILL)
