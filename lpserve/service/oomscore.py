# SPDX-License-Identifier: GPL-2.0-or-later

"""Makes the OOM killer prefer workers and loaders.

The loss of a worker ends one connection; without the service or the zygote there are
none. The service writes the score of each child that is forked. The child could not,
because its sandbox denies writing to /proc.
"""

from __future__ import annotations

import contextlib
import functools
import os

#: Added to the oom_score_adj of a child, of at most 1000 (proc(5)).
ABOVE = 500
_MOST = 1000


def raise_score(pid: int) -> None:
    """Raise the score of the child *pid*, which has not been reaped."""
    wanted = _wanted()
    if wanted is not None:
        # It may have ended, or its /proc files may belong to root.
        with contextlib.suppress(OSError):
            file = os.open(f"/proc/{pid}/oom_score_adj", os.O_WRONLY)
            try:
                os.write(file, b"%d" % wanted)
            finally:
                os.close(file)


@functools.lru_cache(maxsize=1)
def _wanted() -> int | None:
    """The oom_score_adj of children; None if our own cannot be read."""
    try:
        with open("/proc/self/oom_score_adj") as file:
            return min(max(int(file.read()), 0) + ABOVE, _MOST)
    except (OSError, ValueError):
        return None
