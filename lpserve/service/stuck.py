# SPDX-License-Identifier: GPL-2.0-or-later

"""Kills workers that hang, and stopped processes that a killed service has left."""

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
#: The least seconds that a spare worker may be silent; also the seconds that a worker
#: may take beyond the time-out of its client.
GRACE = 10.0


class StuckWorkers:
    """Finds and kills workers that hang; called by `Housekeeping`."""

    def __init__(self, pool: Pool, directory: RuntimeDirectory):
        self._pool = pool
        self._directory = directory
        # When the directory of each connection was first seen.
        self._seen: dict[str, float] = {}

    def end_spares(self) -> None:
        """Kill spare workers that have not answered pings; ping the others.

        Pings are counted, and not time alone, because the service itself may have
        been stopped or suspended.
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
            with contextlib.suppress(OSError):  # it has ended, or its channel is full
                channel.send(worker.channel, "ping")

    def end_connections(self, patience: float) -> None:
        """Kill workers that hang before their FIFOs are open; clear directories.

        A worker removes the directory once its FIFOs are open, or after a time-out.
        A directory that no process holds locked belongs to a worker that was killed,
        perhaps together with an earlier service.

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
    """Kill stopped spare workers and zygotes that a killed service has left.

    Processes that are not stopped end by themselves. A worker with a connection has
    another title, and stays.
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
