# SPDX-License-Identifier: GPL-2.0-or-later

"""Limits the memory of a process, by RLIMIT_DATA."""

from __future__ import annotations

import contextlib

_limited = False


def limit(size: int) -> None:
    """Allow this process *size* more bytes of memory, unless its limit is lower.

    RLIMIT_DATA counts private memory, including what was inherited at the fork, but
    not the mapped files that workers share. Processes that we start inherit it.
    """
    import resource  # which Windows, where --inet works, does not have

    present, most = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = _data_size() + size
    if not 0 <= present < wanted:  # -1 is no limit
        with contextlib.suppress(ValueError):  # above the hard limit
            resource.setrlimit(resource.RLIMIT_DATA, (wanted, most))


def _data_size() -> int:
    """The bytes of this process that RLIMIT_DATA counts."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmData:"):
                return int(line.split()[1]) << 10
    return 0


def limit_connection(mebibytes: int) -> None:
    """Call `limit` in a process that serves a connection; 0 means no limit."""
    global _limited
    if mebibytes:
        limit(mebibytes << 20)
        _limited = True


def explain() -> str:
    """The text for the user after a MemoryError."""
    if _limited:
        return "this connection needs more memory than lpserve.worker_memory allows"
    return "this connection needs more memory than there is"
