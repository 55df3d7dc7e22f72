# SPDX-License-Identifier: GPL-2.0-or-later

"""Opens missing standard descriptors; counts and polls descriptors."""

from __future__ import annotations

import os
import select


def open_standard_descriptors() -> None:
    """Open descriptors 0, 1 and 2 on /dev/null if this process has none there.

    Otherwise the next file that is opened would get such a number, and receive
    what is written to standard error or to a client. If Python has opened a file
    there already, which the missing inheritable flag shows, /dev/null replaces it.
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
    """How many descriptors this process has open; the limit if none is free."""
    try:
        return len(os.listdir("/proc/self/fd")) - 1
    except OSError:  # EMFILE: listing needs a descriptor itself
        import resource  # which Windows, where --inet works, does not have

        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def is_readable(descriptor: int) -> bool:
    """Whether read(2) or accept(2) on *descriptor* would return at once."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(0))
