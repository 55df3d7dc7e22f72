# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""What /proc tells of a process."""

import contextlib


def title_of(pid: int) -> str:
    """What ps(1) shows as its name; "" if there is no such process."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/comm") as comm:
        return comm.read().rstrip("\n")
    return ""
