# SPDX-License-Identifier: GPL-2.0-or-later

"""The descriptors of this process: the standard ones, and how many there are."""

from __future__ import annotations

import os
import select


def open_standard_descriptors() -> None:
    """Have 0, 1 and 2 open, on /dev/null where we were started without them.

    Otherwise what is opened next gets such a number, and what is written to
    standard error, or to a client, goes there. A file that has got one already
    is not inherited, and gives it up.
    """
    if os.name != "posix":
        return
    for number in range(3):
        try:
            if os.get_inheritable(number):
                continue
        except OSError:
            pass
        null = os.open(os.devnull, os.O_RDWR)
        if null == number:
            os.set_inheritable(null, True)
        else:
            os.dup2(null, number)
            os.close(null)


def count_descriptors() -> int:
    """How many this process has open."""
    try:
        return len(os.listdir("/proc/self/fd")) - 1
    except OSError:  # there is none left to look with
        import resource  # which Windows, where --inet works, does not have

        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def is_readable(descriptor: int) -> bool:
    """Whether a read of *descriptor*, or accept(2), would not wait."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(0))
