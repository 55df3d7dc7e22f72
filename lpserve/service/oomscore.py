# SPDX-License-Identifier: GPL-2.0-or-later

"""Whom the kernel ends when memory runs out: workers and loaders first.

What one connection needs is its own; without the service or the zygote nobody is
served. The service says so of each child that it learns of, which a child that is
kept from writing to /proc could not.
"""

from __future__ import annotations

import contextlib
import functools
import os

#: How much sooner than others a child is ended, of 1000 (proc(5), oom_score_adj).
ABOVE = 500
_MOST = 1000


def raise_score(pid: int) -> None:
    """Have the kernel end *pid*, a child that was not reaped, before us."""
    wanted = _wanted()
    if wanted is not None:
        # It may have ended, or belong to root by now.
        with contextlib.suppress(OSError):
            file = os.open(f"/proc/{pid}/oom_score_adj", os.O_WRONLY)
            try:
                os.write(file, b"%d" % wanted)
            finally:
                os.close(file)


@functools.lru_cache(maxsize=1)
def _wanted() -> int | None:
    """What children have; None where that is not known."""
    try:
        with open("/proc/self/oom_score_adj") as file:
            return min(max(int(file.read()), 0) + ABOVE, _MOST)
    except (OSError, ValueError):
        return None
