# SPDX-License-Identifier: GPL-2.0-or-later

"""Lists the processes of this host from /proc (proc(5))."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

#: Ticks of /proc in a second, bytes of a page.
_TICKS, _PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
_FORKED = 0x40  # PF_FORKNOEXEC of <linux/sched.h>: no exec since the fork


def has_members(group: int) -> bool:
    """Whether there is a process in the process group *group*."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@dataclass(frozen=True)
class Process:
    """One process, as in proc_pid_stat(5).

    :ivar forked: whether it has not called exec since it was forked.
    """

    pid: int
    title: bytes
    state: bytes
    parent: int
    group: int
    forked: bool


def processes() -> Iterator[Process]:
    """All processes, except those that end meanwhile."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        head, _, rest = read(name, "stat").rpartition(b") ")
        words = rest.split()
        if words:
            title, forked = head.partition(b"(")[2], bool(int(words[6]) & _FORKED)
            numbers = int(words[1]), int(words[2])
            yield Process(int(name), title, words[0], *numbers, forked)


def read(pid: object, name: str) -> bytes:
    """The content of /proc/*pid*/*name*; b"" if it cannot be read."""
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""


def usage(pid: object) -> tuple[float, int]:
    """Seconds of CPU that the process *pid* has used, and bytes of its memory.

    Memory that it shares is counted. Both are 0 for one that has ended.
    """
    words = read(pid, "stat").rpartition(b") ")[2].split()
    if len(words) < 22:
        return 0.0, 0
    ticks = int(words[11]) + int(words[12])
    return round(ticks / _TICKS, 2), int(words[21]) * _PAGE
