# SPDX-License-Identifier: GPL-2.0-or-later

"""The files in the directory of kept streams: their names, and who is making one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import time
from collections.abc import Callable, Iterator

#: The name of a kept stream, which is its key, and of one that is being made.
is_key = re.compile("[0-9a-f]{64}").fullmatch
is_temporary = re.compile("[0-9a-f]{64}[.][0-9]+[.]tmp").fullmatch

#: Told how many streams were dropped, and of how many bytes.
Dropped = Callable[[int, int], object]

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Scan:
    """One reading of a directory.

    :param dropped: told when all streams were dropped; empty: none are dropped.
    :ivar found: streams by key.
    :ivar count, bytes: what was dropped.
    :ivar strange: how many entries are something else.
    """

    def __init__(self, path: str, dropped: list[Dropped]):
        self.began = time.monotonic()
        self.dropped = dropped
        self.found: dict[str, os.stat_result] = {}
        self.count = self.bytes = self.strange = 0
        self.entries: Iterator[os.DirEntry[str]] = os.scandir(path)

    def close(self) -> None:
        """Close the directory."""
        self.entries.close()  # type: ignore[attr-defined]


def is_ours(found: os.stat_result) -> bool:
    """Whether that is a file, and of this account."""
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()


def is_locked(path: str, remove: bool = False) -> bool:
    """Whether a process holds the lock on the file *path*.

    :param remove: remove the file if none does.
    """
    try:
        number = os.open(path, _FLAGS)
    except OSError:
        return False
    try:
        fcntl.flock(number, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if remove:
            with contextlib.suppress(OSError):
                os.unlink(path)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(number)
    return False


def remove_stale(path: str) -> None:
    """Remove what a worker was making that is there no more."""
    is_locked(path, remove=True)
