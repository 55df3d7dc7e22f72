# SPDX-License-Identifier: GPL-2.0-or-later

"""How much memory a process may take, and what is said of one that needs more."""

from __future__ import annotations

import contextlib

_limited = False


def limit(size: int) -> None:
    """Have no more than *size* bytes from now on, or whatever else is the limit.

    RLIMIT_DATA counts what is this process's own, and what it has inherited; not
    what is mapped from files that all workers share. What we start has the limit too.
    """
    import resource  # which Windows, where --inet works, does not have

    present, most = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = _data_size() + size
    if not 0 <= present < wanted:  # -1 is no limit
        with contextlib.suppress(ValueError):  # beyond what there may be at most
            resource.setrlimit(resource.RLIMIT_DATA, (wanted, most))


def _data_size() -> int:
    """Bytes of this process that RLIMIT_DATA counts."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmData:"):
                return int(line.split()[1]) << 10
    return 0


def limit_connection(mebibytes: int) -> None:
    """`limit` this process, which serves a connection; 0: do not."""
    global _limited
    if mebibytes:
        limit(mebibytes << 20)
        _limited = True


def explain() -> str:
    """What is said of a MemoryError."""
    if _limited:
        return "this connection needs more memory than lpserve.worker_memory allows"
    return "this connection needs more memory than there is"
