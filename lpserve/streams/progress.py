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
        # As clock_getcpuclockid(3) has it: the lowest bits are CPUCLOCK_SCHED. It can
        # be read of any process; /proc may hide those of other sandboxes (proc(5),
        # hidepid, which is ProtectProc= of systemd).
        self._clock = ~pid << 3 | 2
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

    def _cpu_time(self) -> float | None:
        """The seconds that it has used; None if it is not there."""
        try:
            return time.clock_gettime(self._clock)
        except OSError:
            return None
