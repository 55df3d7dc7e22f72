# SPDX-License-Identifier: GPL-2.0-or-later

"""Whether a process does anything: it may be stopped, or hang."""

from __future__ import annotations

import time

#: Seconds without any CPU time after which a process stands still.
_STILL = 1.0


class Progress:
    """Watches a process from now on.

    :param pid: of the process.
    """

    def __init__(self, pid: int):
        self._path = f"/proc/{pid}/stat"
        self._used = self._cpu_time()
        self._since = time.monotonic()

    def stands_still(self) -> bool:
        """Whether it has used no CPU time for a while."""
        now = time.monotonic()
        if now - self._since < _STILL:
            return False
        used = self._cpu_time()
        if used is None or used == self._used:
            return True
        self._used, self._since = used, now
        return False

    def _cpu_time(self) -> list[bytes] | None:
        """The clock ticks that it has used; None if that cannot be found out."""
        try:
            with open(self._path, "rb") as file:
                fields = file.read().rpartition(b") ")[2].split()
        except OSError:
            return None
        return fields[11:13]  # utime and stime of proc_pid_stat(5)
