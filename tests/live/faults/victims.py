# SPDX-License-Identifier: GPL-2.0-or-later

"""The processes of a service, told apart by what /proc says of them."""

from __future__ import annotations

import contextlib
import os

_FORKED = 0x40  # PF_FORKNOEXEC of <linux/sched.h>: no exec since the fork


def read(pid: int, name: str) -> bytes:
    """What is in the file *name* of process *pid*; empty if it cannot be read."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/{name}", "rb") as file:
        return file.read()
    return b""


def _stat(pid: int) -> list[bytes]:
    """The fields of proc_pid_stat(5) from the third on: state, ppid..."""
    return read(pid, "stat").rpartition(b") ")[2].split()


def state_of(pid: int) -> bytes:
    """The letter of its state; empty if there is no process *pid*."""
    return b"".join(_stat(pid)[:1])


def parent_of(pid: int) -> int:
    """Its parent; 0 if there is no process *pid*."""
    return int(b"".join(_stat(pid)[1:2]) or 0)


def is_gone(pid: int) -> bool:
    """Whether there is no process *pid*, not even a zombie."""
    return not os.path.exists(f"/proc/{pid}")


def is_running(pid: int) -> bool:
    """Whether there is a process *pid* that has not ended, reaped or not."""
    return state_of(pid) not in (b"", b"Z")


def kind_of(pid: int) -> tuple[str, str]:
    """What process *pid* is, and the USER of a worker.

    "service", "zygote", "worker", "spare", "loader" or "".
    """
    words = read(pid, "cmdline").split(b"\0")
    if b"--fork-server" in words:
        return "service", ""
    stat = _stat(pid)
    if b"--zygote" not in words or not stat:
        return "", ""
    if not int(stat[6]) & _FORKED:
        return "zygote", ""
    title = read(pid, "comm").strip().decode()
    if title.startswith("lp:") and title != "lp:rehearsal":
        return "worker", title[3:]
    if title == "lp-loader":
        return "loader", ""
    if b"--fork-server" in read(int(stat[1]), "cmdline").split(b"\0"):
        return "spare", ""
    return "", ""  # of a rehearsal, or between zygote and worker


def zombies_of(pid: int) -> list[int]:
    """The children of *pid* that it has not reaped."""
    wanted = [b"Z", str(pid).encode()]
    numbers = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [number for number in numbers if _stat(number)[:2] == wanted]
