# SPDX-License-Identifier: GPL-2.0-or-later

"""What is kept of a connection that has ended, and the line of JSON that it becomes."""

from __future__ import annotations

import json
from typing import NamedTuple

from .. import scoreboard
from .children import ExitStatus
from .connection import Streamed
from .moments import time_of_day

#: `json.dumps` would make another one for each line.
_encoder = json.JSONEncoder(ensure_ascii=False)


class Record(NamedTuple):
    """A connection that has ended; the units are those of `line`.

    :ivar pid: of its worker.
    :ivar until: when it ended, in seconds since the epoch.
    :ivar seconds: how long it was there.
    :ivar first_byte: seconds until the first byte was written to it, or None.
    :ivar snapshot: what the worker has written; see `scoreboard.take_snapshot`.
    :ivar cpu: seconds of its worker.
    :ivar memory: the most bytes of its worker, or None.
    :ivar streams: how it has got its streams.
    """

    pid: int | None
    user: str
    address: str
    door: str
    how: str
    end: ExitStatus
    until: float
    seconds: float
    first_byte: float | None
    snapshot: bytes
    cpu: float
    memory: int | None
    streams: Streamed

    def line(self) -> str:
        """As ``history`` answers it; ``doc/protocol.txt`` lists the fields."""
        entry = scoreboard.decode(self.snapshot)
        made, kept, followed, size = self.streams
        return _encoder.encode(
            {
                "since": time_of_day(self.until - self.seconds),
                "until": time_of_day(self.until),
                "seconds": round(self.seconds, 3),
                "pid": self.pid,
                "user": self.user,
                "peer": self.address,
                "door": self.door,
                "how": self.how,
                "exit": str(self.end),
                "first_byte": self.first_byte and round(self.first_byte, 6),
                "repositories": entry.repositories,
                "verbs": entry.verbs,
                "requests": entry.requests,
                "bytes_in": entry.bytes_in,
                "bytes_out": entry.bytes_out,
                "cpu": round(self.cpu, 3),
                "peak_memory": self.memory,
                "streams": {"made": made, "kept": kept, "followed": followed},
                "bytes_kept": size,
            }
        )
