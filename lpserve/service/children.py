# SPDX-License-Identifier: GPL-2.0-or-later

"""The children of the service: watched by pidfd, reaped here and nowhere else.

A worker is a child of the service although the zygote forked it: `system.fork_sibling`
makes it a child of the zygote's parent. Where the kernel refuses that, the zygote
forks through a middle process that exits, and the kernel gives the worker to the
service, which is the subreaper (prctl(2)).
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

from .loop import Loop
from .processes import has_members, processes

#: Seconds that a child may take to end when it was told to, before it is killed.
LET_GO = 5.0


@dataclass(frozen=True)
class ExitStatus:
    """How a child ended: ``kind`` is "exit" or "signal", ``number`` which."""

    kind: str
    number: int

    @property
    def clean(self) -> bool:
        """Whether it exited by itself with status 0."""
        return self.kind == "exit" and self.number == 0

    def __str__(self) -> str:
        return f"{self.kind} {self.number}"


class Child:
    """One child that has not been reaped: its pid cannot be another's yet."""

    def __init__(
        self, pid: int, pidfd: int, ended: Callable[[ExitStatus], None], leader: bool
    ):
        self.pid = pid
        self.pidfd = pidfd
        self.ended = ended
        self.leader = leader

    def signal(self, number: int) -> None:
        """Send it a signal; a leader's goes to all of its process group.

        Nothing once it has been reaped: its pid may be somebody else's.
        """
        if self.pidfd < 0:
            return
        if self.leader and self._signal_group(number):
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def _signal_group(self, number: int) -> bool:
        # Until it is reaped its process group cannot be somebody else's.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)
            return True
        return False


class Children:
    """The table of children.

    :param reaped: called after each child that was reaped and told of.
    """

    def __init__(self, loop: Loop, reaped: Callable[[], None]):
        self._loop = loop
        self._reaped = reaped
        self._table: dict[int, Child] = {}
        self._groups: set[int] = set()

    def __len__(self) -> int:
        return len(self._table)

    def add(
        self, pid: int, ended: Callable[[ExitStatus], None], leader: bool = False
    ) -> Child:
        """Watch the child *pid*; call *ended* once it has been reaped.

        :param leader: it makes itself the leader of a process group.
        :raises OSError: if it cannot be watched (EMFILE, ENOMEM).
        """
        pidfd = os.pidfd_open(pid)
        child = Child(pid, pidfd, ended, leader)
        try:
            self._loop.watch(pidfd, lambda: self._reap(child))
        except OSError:
            os.close(pidfd)
            raise
        self._table[pid] = child
        return child

    def let_go(self, child: Child) -> None:
        """End *child*, which has been told to, if it does not by itself."""
        if child.pidfd >= 0:
            self._loop.call_later(LET_GO, lambda: child.signal(signal.SIGKILL))

    def terminate(self, child: Child) -> None:
        """End *child*, with SIGTERM and, if that does not, SIGKILL."""
        child.signal(signal.SIGTERM)
        self.let_go(child)

    def end_group(self, group: int) -> None:
        """Kill what a zygote, the leader of *group*, has left half forked.

        A child that is not in the table, has never called exec and is still in the
        zygote's process group has not begun to be a worker, and never will: it may
        hang where it is. One that comes later (of a middle process) `sweep` finds.
        """
        self._groups.add(group)
        self.sweep()

    def sweep(self) -> None:
        """Kill what there is now in the groups of `end_group`."""
        for group in list(self._groups):
            if not has_members(group):
                self._groups.discard(group)
                continue
            for each in processes():
                half = each.forked and (each.parent, each.group) == (os.getpid(), group)
                if half and each.pid not in self._table:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(each.pid, signal.SIGKILL)

    def kill_all(self) -> None:
        """End every child at once: those that were let go and do not go."""
        for child in self._table.values():
            child.signal(signal.SIGKILL)

    def _reap(self, child: Child) -> None:
        peek = os.WEXITED | os.WNOHANG | os.WNOWAIT
        try:
            info = os.waitid(os.P_PIDFD, child.pidfd, peek)
            if info is None:
                return
            kind = "exit" if info.si_code == os.CLD_EXITED else "signal"
            end = ExitStatus(kind, info.si_status)
            if kind == "signal":
                # What it started (hooks) goes with it.
                child.signal(signal.SIGTERM)
            os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
        except ChildProcessError:
            end = ExitStatus("signal", signal.SIGKILL)  # somebody else reaped it
        self._loop.forget(child.pidfd)
        os.close(child.pidfd)
        child.pidfd = -1
        del self._table[child.pid]
        try:
            child.ended(end)
        finally:
            self._reaped()

    def reap_strangers(self) -> None:
        """Reap orphans that became ours: what a worker left running and ended.

        To be called now and then, while no fork is under way: otherwise a child
        that is not in the table may be a worker whose pid was not told yet.
        """
        peek = os.WEXITED | os.WNOHANG | os.WNOWAIT
        with contextlib.suppress(ChildProcessError):
            while (info := os.waitid(os.P_ALL, 0, peek)) is not None:
                if info.si_pid in self._table:
                    return
                os.waitid(os.P_PID, info.si_pid, os.WEXITED)
