# SPDX-License-Identifier: GPL-2.0-or-later

"""What processes take: CPU time, memory, descriptors; as exact as the kernel tells.

A control group counts the nanoseconds of all that ever was in it, so what lives
shortly is not lost. Where none can be made (it takes root, or a delegated one) the
children that a process has reaped are counted as its stat file says: in ticks of
10 ms, rounded as it is read, so that only a long run is exact.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator

_TICK = 1 / os.sysconf("SC_CLK_TCK")


def cpu_of(pid: int) -> float:
    """CPU seconds of *pid* itself, its children not included."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/schedstat") as file:
        return int(file.read().split()[0]) / 1e9
    own, _ = _ticks(pid)
    return own


def cpu_of_reaped(pid: int) -> float:
    """CPU seconds of the children that *pid* has reaped."""
    return _ticks(pid)[1]


def _ticks(pid: int) -> tuple[float, float]:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    user, system, children_user, children_system = map(int, fields[11:15])
    return (user + system) * _TICK, (children_user + children_system) * _TICK


class Group:
    """A control group that counts CPU time.

    :ivar path: its directory.
    """

    def __init__(self, path: str):
        self.path = path

    def add(self, pids: Iterable[int]) -> None:
        """Put processes into it; their children to come are in it, too."""
        for pid in pids:
            with open(os.path.join(self.path, "cgroup.procs"), "w") as file:
                file.write(str(pid))

    @property
    def words(self) -> list[str]:
        """Words in front of a command that is to be in it."""
        place = os.path.join(self.path, "cgroup.procs")
        return ["sh", "-c", f'echo $$ > {place}; exec "$@"', "sh"]

    def seconds(self) -> float:
        """CPU seconds of all that was ever in it."""
        usage = os.path.join(self.path, "cpuacct.usage")
        with contextlib.suppress(FileNotFoundError), open(usage) as file:
            return int(file.read()) / 1e9
        with open(os.path.join(self.path, "cpu.stat")) as file:
            found = dict(line.split() for line in file)
        return int(found["usage_usec"]) / 1e6


@contextlib.contextmanager
def group(name: str) -> Iterator[Group | None]:
    """A control group, or None where none can be made.

    All that is in it has to have ended at the end.
    """
    path = _place()
    if path is not None:
        path = os.path.join(path, f"lpserve-benchmark-{os.getpid()}-{name}")
        try:
            os.mkdir(path)
        except OSError:
            path = None
    try:
        yield None if path is None else Group(path)
    finally:
        if path is not None:
            with contextlib.suppress(OSError):
                os.rmdir(path)  # where something is left in it, it stays


def _place() -> str | None:
    """Where our control group is, of the hierarchy that counts CPU time."""
    ours: dict[str, str] = {}
    mounts: dict[str, str] = {}
    with contextlib.suppress(OSError):
        with open("/proc/self/cgroup") as file:
            for line in file:
                _, controllers, path = line.rstrip("\n").split(":", 2)
                for controller in controllers.split(","):
                    ours[controller] = path
        with open("/proc/self/mounts") as file:
            for line in file:
                _, place, kind, options = line.split()[:4]
                if kind == "cgroup" and "cpuacct" in options.split(","):
                    mounts["cpuacct"] = place
                elif kind == "cgroup2":
                    mounts[""] = place
    for controller in ("cpuacct", ""):
        if controller in ours and controller in mounts:
            return mounts[controller] + ours[controller]
    return None


# -- memory and the rest ----------------------------------------------------------


def pss(pids: Iterable[int]) -> float:
    """The proportional set size of *pids* together, in MiB."""
    return sum(_of_rollup(pid, "Pss:") for pid in pids)


def private(pid: int) -> float:
    """What *pid* shares with nobody, in MiB."""
    return _of_rollup(pid, "Private_Dirty:") + _of_rollup(pid, "Private_Clean:")


def _of_rollup(pid: int, name: str) -> float:
    with open(f"/proc/{pid}/smaps_rollup") as file:
        for line in file:
            if line.startswith(name):
                return int(line.split()[1]) / 1024
    return 0.0


def available() -> float:
    """The memory that this machine has left, in MiB."""
    with open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) / 1024
    return 0.0


def descriptors(pid: int) -> int:
    """How many *pid* has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))
