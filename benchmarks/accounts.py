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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from connections import Program, say_hello
from runner import in_turn
from sides import Side
from stage import Service

_TICK = 1 / os.sysconf("SC_CLK_TCK")
CLIENT, SERVICE, ZYGOTE, WORKER = "program and shell", "service", "zygote", "worker"
#: What the CPU time of a connection consists of.
PARTS = (CLIENT, SERVICE, ZYGOTE, WORKER)


# -- memory and the rest ----------------------------------------------------------


def pss(pids: Iterable[int]) -> float:
    """The proportional set size of *pids* together, in MiB."""
    return sum(_of_rollup(pid, "Pss:") for pid in pids)


def private(pid: int) -> float:
    """What *pid* shares with nobody, in MiB."""
    return _of_rollup(pid, "Private_Dirty:") + _of_rollup(pid, "Private_Clean:")


def _of_rollup(pid: int, name: str) -> float:
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return sum(int(line.split()[1]) / 1024 for line in file if name in line)


def descriptors(pid: int) -> int:
    """How many *pid* has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


# -- CPU time ---------------------------------------------------------------------


def cpu_of(pid: int) -> float:
    """CPU seconds of *pid* itself, its children not included."""
    with open(f"/proc/{pid}/schedstat") as file:
        return int(file.read().split()[0]) / 1e9


def cpu_of_reaped(pid: int) -> float:
    """CPU seconds of the children that *pid* has reaped."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return sum(map(int, fields[13:15])) * _TICK


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
    """A control group beside ours, or None where none can be made.

    All that is in it has to have ended at the end.
    """
    made = None
    with contextlib.suppress(OSError):
        path = f"{_place()}/lpserve-benchmark-{os.getpid()}-{name}"
        os.mkdir(path)
        made = Group(path)
    try:
        yield made
    finally:
        if made is not None:
            with contextlib.suppress(OSError):
                os.rmdir(made.path)  # where something is left in it, it stays


def _place() -> str:
    """Where our control group is, of the hierarchy that counts CPU time.

    :raises OSError: if there is none.
    """
    with open("/proc/self/cgroup") as file:
        ours = [line.rstrip("\n").split(":", 2)[1:] for line in file]
    with open("/proc/self/mounts") as file:
        mounts = [line.split()[1:4] for line in file]
    for place, kind, options in mounts:
        first = kind == "cgroup" and "cpuacct" in options.split(",")
        for controllers, path in ours:
            if first and "cpuacct" in controllers.split(","):
                return place + path
    for place, kind, _ in mounts:
        for controllers, path in ours:
            if kind == "cgroup2" and not controllers:
                return place + path
    raise FileNotFoundError("/sys/fs/cgroup")


@dataclass
class Account:
    """What connections of one side take.

    :ivar group: of the service and all its children, if there can be one.
    :ivar clients: CPU seconds of the programs of this round.
    :ivar parts: milliseconds per connection, by part, of each round.
    :ivar times: milliseconds to the first byte of each connection.
    """

    side: Side
    group: Group | None = None
    clients: float = 0.0
    parts: dict[str, list[float]] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)

    def totals(self) -> list[float]:
        """Milliseconds per connection, of each round."""
        return [sum(each) for each in zip(*self.parts.values())]

    def begin(self) -> None:
        """A round begins."""
        self.clients = 0.0
        self._before = self._so_far()

    def connect(self) -> None:
        """One connection."""
        # Its spare workers are back, which nobody asks the service.
        if self.side.service is not None:
            self.side.service.wait_for_spares()
        made = say_hello(self.side.start)
        self.times.append(made.took)
        if isinstance(made, Program):
            self.clients += made.cpu

    def end(self, connections: int) -> None:
        """A round of so many connections has ended."""
        found = {CLIENT: self.clients}
        for part, seconds in self._so_far().items():
            found[part] = seconds - self._before[part]
        for part, seconds in found.items():
            self.parts.setdefault(part, []).append(seconds * 1000 / connections)

    def _so_far(self) -> dict[str, float]:
        service = self.side.service
        if service is None:
            return {}
        service.wait_for_spares()
        own, zygote = cpu_of(service.pid), service.zygote
        # The zygote reaps nothing but the processes that it may fork through.
        found = {SERVICE: own, ZYGOTE: cpu_of(zygote) + cpu_of_reaped(zygote)}
        if self.group is None:
            found[WORKER] = cpu_of_reaped(service.pid)
        else:
            found[WORKER] = self.group.seconds() - sum(found.values())
        return found


def account(
    stack: contextlib.ExitStack, service: Service, side: Callable[[Service], Side]
) -> Account:
    """Start *service*, in a control group; the account of the *side* that it is of."""
    counted = stack.enter_context(group(os.path.basename(service.directory)))
    stack.enter_context(service)
    if counted is not None:
        counted.add([service.pid, *service.children()])
    return Account(side(service), counted)


def count(accounts: Sequence[Account], rounds: int, per_round: int) -> None:
    """Make *rounds* rounds of connections, those of all accounts in turns."""
    for each in accounts:
        each.connect()
    for _ in range(rounds):
        for each in accounts:
            each.begin()
        for each, _ in in_turn(accounts, per_round, warm=0):
            each.connect()
        for each in accounts:
            each.end(per_round)
