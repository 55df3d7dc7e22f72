# SPDX-License-Identifier: GPL-2.0-or-later

"""Watches the children of the service by pidfd, and reaps them.

A worker is a child of the service although the zygote forked it: `system.fork_sibling`
makes it a child of the zygote's parent. Where the kernel refuses that, the zygote
forks through a middle process that exits, and the kernel gives the worker to the
service, which is the subreaper (prctl(2)).
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass

from .loop import Loop
from .processes import has_members, processes

#: Seconds that a child may take to end before it is killed.
LET_GO = 5.0


@dataclass(frozen=True)
class ExitStatus:
    """How a child ended: by "exit" with a status, or by "signal" with its number."""

    kind: str
    number: int

    @property
    def clean(self) -> bool:
        """Whether it exited by itself with status 0."""
        return self.kind == "exit" and self.number == 0

    def __str__(self) -> str:
        return f"{self.kind} {self.number}"


class Child:
    """A child of the service.

    :ivar pid: of the child; the kernel does not reuse it before the child is reaped.
    :ivar pidfd: for the child; -1 once it is reaped.
    :ivar ended: called with its `ExitStatus` after it was reaped.
    :ivar leader: whether it is the leader of a process group.
    :ivar usage: its CPU time and peak memory (getrusage(2)), once it is reaped.
    """

    def __init__(
        self, pid: int, pidfd: int, ended: Callable[[ExitStatus], None], leader: bool
    ):
        self.pid = pid
        self.pidfd = pidfd
        self.ended = ended
        self.leader = leader
        self.usage: resource.struct_rusage | None = None

    def signal(self, number: int) -> None:
        """Send signal *number* to the child; if it is a leader, to its process group.

        No effect after the child was reaped.
        """
        if self.pidfd < 0:
            return
        if self.leader and self._signal_group(number):
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def _signal_group(self, number: int) -> bool:
        # The kernel does not reuse the number before the child is reaped.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)
            return True
        return False


class Children:
    """The table of children.

    :param reaped: called after each child was reaped and its `Child.ended` called.
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

        :param leader: whether it becomes the leader of a process group.
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
        """Kill *child*, which has a reason to end, unless it ends within `LET_GO` s."""
        if child.pidfd >= 0:
            self._loop.call_later(LET_GO, lambda: child.signal(signal.SIGKILL))

    def terminate(self, child: Child) -> None:
        """Send *child* SIGTERM, and SIGKILL if it does not end."""
        child.signal(signal.SIGTERM)
        self.let_go(child)

    def end_group(self, group: int) -> None:
        """Kill the incomplete forks of a zygote, the leader of *group*, that has ended.

        A worker leaves the process group of its zygote first of all. A child that is
        not in the table, has not called exec and is still in that group has not come
        so far. It has no channel and may hang. `sweep` finds those that become our
        children later, because their middle process had to exit first.
        """
        self._groups.add(group)
        self.sweep()

    def sweep(self) -> None:
        """Kill the incomplete forks in the groups that `end_group` was called with."""
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
        """Send SIGKILL to every child."""
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
                # End the processes that it started, such as hooks, as well.
                child.signal(signal.SIGTERM)
            # Not reaped yet, it has its pid for itself.
            child.usage = os.wait4(child.pid, 0)[2]
        except ChildProcessError:
            end = ExitStatus("signal", signal.SIGKILL)  # already reaped elsewhere
        self._loop.forget(child.pidfd)
        os.close(child.pidfd)
        child.pidfd = -1
        del self._table[child.pid]
        try:
            child.ended(end)
        finally:
            self._reaped()

    def reap_strangers(self) -> None:
        """Reap orphans: processes that a worker has left running and that ended.

        They become our children, because the service is a subreaper. Not to be
        called while a zygote owes a fork: a child that is not in the table may then
        be a worker whose pid is not known yet.
        """
        peek = os.WEXITED | os.WNOHANG | os.WNOWAIT
        with contextlib.suppress(ChildProcessError):
            while (info := os.waitid(os.P_ALL, 0, peek)) is not None:
                if info.si_pid in self._table:
                    return
                os.waitid(os.P_PID, info.si_pid, os.WEXITED)
