# SPDX-License-Identifier: GPL-2.0-or-later

"""Logs shortages of descriptors, memory or disk space once a minute."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable

log = logging.getLogger("lpserve")

#: The errors of system calls in a shortage.
_ERRORS = frozenset(
    getattr(errno, name)
    for name in ("EMFILE", "ENFILE", "ENOMEM", "ENOBUFS", "ENOSPC", "EDQUOT")
)
#: Seconds in which the same error is logged once.
QUIET = 60.0


class Shortages:
    """Tells shortages from programming errors.

    :param clock: returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._quiet_until: dict[int, float] = {}

    def explain(self, error: Exception) -> bool:
        """Whether *error* is a shortage, which this then logs, once a minute."""
        number = errno.ENOMEM if isinstance(error, MemoryError) else 0
        if isinstance(error, OSError):
            number = error.errno or 0
        if number not in _ERRORS:
            return False
        now = self._clock()
        if now >= self._quiet_until.get(number, now):
            self._quiet_until[number] = now + QUIET
            log.error("%s: an operation was skipped", os.strerror(number))
        return True
