# SPDX-License-Identifier: GPL-2.0-or-later

"""Collects the answer to ``status``; ``doc/protocol.txt`` lists the fields."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from ..descriptors import count_descriptors
from .accesslog import AccessLog
from .accesswatch import AccessWatch
from .admission import Admission
from .agent import health
from .door import Doors
from .drain import Drain
from .housekeeping import Housekeeping
from .moments import moment
from .pool import Pool
from .streams import Streams
from .upgrades import Upgrades
from .warmer import Warmer
from .zygotes import Zygotes

#: The totals in the answer, even if they are 0.
_TOTALS = ("requests", "spawned", "ended", "gone", "failed", "evicted", "faults")


class Status:
    """Collects the answer from the parts of the service.

    :param totals: the counts of events since the service started.
    :param refused: counts of refused requests, by the code of the error.
    """

    def __init__(
        self,
        version: str,
        runtime_dir: str,
        doors: Doors,
        pool: Pool,
        admission: Admission,
        drain: Drain,
        zygotes: Zygotes,
        warmer: Warmer,
        house: Housekeeping,
        access: AccessWatch,
        totals: Mapping[str, int],
        refused: Mapping[str, int],
        access_log: AccessLog,
        upgrades: Upgrades,
        streams: Streams,
    ):
        self._started = time.monotonic()
        self._version = version
        self._runtime_dir = runtime_dir
        self._doors = doors
        self._pool = pool
        self._admission = admission
        self._drain = drain
        self._zygotes = zygotes
        self._warmer = warmer
        self._house = house
        self._access = access
        self._totals = totals
        self._refused = refused
        self._access_log = access_log
        self._upgrades = upgrades
        self._streams = streams

    def tell(self, state: str) -> dict[str, object]:
        """The answer, for JSON.

        :param state: "running" or "stopping".
        """
        zygote = self._zygotes.present
        return {
            "pid": os.getpid(),
            "version": self._version,
            "uptime": round(time.monotonic() - self._started, 3),
            "runtime_dir": self._runtime_dir,
            "doors": self._doors.names,
            "state": state,
            "drained": self._drain.message,
            "generation": zygote.number if zygote else None,
            "zygote": zygote.pid if zygote else None,
            "loaded": moment(zygote.ready_since) if zygote else None,
            "breezy": zygote.breezy if zygote else None,
            "modules": zygote.modules if zygote else None,
            "rehearsal": self._zygotes.rehearsal(),
            "sandbox": zygote.sandbox if zygote else None,
            "workers": {**self._pool.counts(), "queued": self._admission.queued},
            "totals": {name: self._totals.get(name, 0) for name in _TOTALS},
            "refused": dict(self._refused),
            "predecessors": self._upgrades.describe(),
            "descriptors": count_descriptors(),
            "access": self._access.status(),
            "access_log": self._access_log.status(),
            "streams": self._streams.status(),
            "warnings": self._house.warnings + self._access.warnings,
            **self._warmer.status(),
        }

    def health(self, stopping: bool) -> str:
        """The same for a load balancer."""
        return health(
            stopping,
            self._drain.message is not None,
            self._zygotes.present is not None,
            self._admission.limits.workers,
            self._admission.open + self._admission.queued,
        )

    def line(self, fault: str) -> str:
        """The same for people, in a few words: ``systemctl status`` shows it.

        :param fault: why the last reload failed, or "".
        """
        counts = self._pool.counts()
        number = counts["busy"] + counts["waiting"]
        zygote = self._zygotes.present
        state = "serving" if self._drain.message is None else "out of service"
        text = f"{state}; {number} connection{'' if number == 1 else 's'}, "
        text += f"generation {zygote.number}" if zygote else "no zygote"
        return f"{text}; the last reload failed: {fault}" if fault else text
