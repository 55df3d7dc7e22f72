# SPDX-License-Identifier: GPL-2.0-or-later

"""What /proc tells of a process."""

import contextlib


def title_of(pid: int) -> str:
    """What ps(1) shows as its name; "" if there is no such process."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/comm") as comm:
        return comm.read().rstrip("\n")
    return ""
