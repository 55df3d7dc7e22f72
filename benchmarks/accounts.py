# SPDX-License-Identifier: GPL-2.0-or-later

"""What processes take: CPU time, memory, descriptors.

A control group counts the CPU time of all processes that were ever in it, in
nanoseconds. Creating one needs root or a delegated group. Elsewhere the CPU time of
workers is that of the service's reaped children, in /proc/PID/stat, which has a
granularity of 10 ms.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from connections import Program, say_hello
from runner import in_rounds
from sides import Side
from stage import Service

_TICK = 1 / os.sysconf("SC_CLK_TCK")
CLIENT, SERVICE, ZYGOTE, WORKER = "program and shell", "service", "zygote", "worker"
#: The parts of the CPU time of a connection.
PARTS = (CLIENT, SERVICE, ZYGOTE, WORKER)


# -- memory and descriptors -------------------------------------------------------


def pss(pids: Iterable[int]) -> float:
    """The proportional set size of *pids* together, in MiB."""
    return sum(_of_rollup(pid, "Pss:") for pid in pids)


def private(pid: int) -> float:
    """The memory that *pid* shares with no other process, in MiB."""
    return _of_rollup(pid, "Private_Dirty:") + _of_rollup(pid, "Private_Clean:")


def _of_rollup(pid: int, name: str) -> float:
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return sum(int(line.split()[1]) / 1024 for line in file if name in line)


def descriptors(pid: int) -> int:
    """The number of open descriptors of *pid*."""
    return len(os.listdir(f"/proc/{pid}/fd"))


# -- CPU time ---------------------------------------------------------------------


def cpu_of(pid: int) -> float:
    """CPU seconds of *pid*, without its children."""
    with open(f"/proc/{pid}/schedstat") as file:
        return int(file.read().split()[0]) / 1e9


def cpu_of_reaped(pid: int) -> float:
    """CPU seconds of the children that *pid* has reaped."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return sum(map(int, fields[13:15])) * _TICK


@dataclass
class Group:
    """The control group in the directory *path*."""

    path: str

    def add(self, pids: Iterable[int]) -> None:
        """Move processes into it; their later children are in it as well."""
        for pid in pids:
            with open(os.path.join(self.path, "cgroup.procs"), "w") as file:
                file.write(str(pid))

    def seconds(self) -> float:
        """CPU seconds of all processes that were ever in it."""
        usage = os.path.join(self.path, "cpuacct.usage")
        with contextlib.suppress(FileNotFoundError), open(usage) as file:
            return int(file.read()) / 1e9
        with open(os.path.join(self.path, "cpu.stat")) as file:
            found = dict(line.split() for line in file)
        return int(found["usage_usec"]) / 1e6


@contextlib.contextmanager
def group(name: str) -> Iterator[Group | None]:
    """A new control group, or None where none can be made; empty at the end."""
    path = f"{_own_group()}/lpserve-benchmark-{os.getpid()}-{name}"
    try:
        os.mkdir(path)
    except OSError:
        yield None
        return
    try:
        yield Group(path)
    finally:
        with contextlib.suppress(OSError):
            os.rmdir(path)


def _own_group() -> str:
    """The directory of our group in the hierarchy that counts CPU time (cgroups(7)).

    It has the name "cpuacct" in version 1 and none in version 2.
    """
    paths, places = {}, {}
    with open("/proc/self/cgroup") as file:
        for line in file:
            _, names, path = line.rstrip("\n").split(":", 2)
            paths.update(dict.fromkeys(names.split(","), path))
    with open("/proc/self/mounts") as file:
        for _, place, kind, names, *_ in map(str.split, file):
            if kind == "cgroup2":
                places[""] = place
            elif kind == "cgroup" and "cpuacct" in names.split(","):
                places["cpuacct"] = place
    usable = [places[name] + paths[name] for name in ("cpuacct", "") if name in places]
    return usable[0] if usable else "/sys/fs/cgroup"


@dataclass
class Account:
    """What the connections of one side take.

    :ivar group: of the service and all its children, if there can be one.
    :ivar clients: CPU seconds of the programs of this round.
    :ivar parts: CPU milliseconds per connection, by part, of each round.
    :ivar times: milliseconds to the first byte of each connection.
    """

    side: Side
    group: Group | None = None
    clients: float = 0.0
    parts: dict[str, list[float]] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)

    def totals(self) -> list[float]:
        """CPU milliseconds per connection, of each round."""
        return [sum(each) for each in zip(*self.parts.values())]

    def begin(self) -> None:
        """Begin a round."""
        self.clients = 0.0
        self._before = self._so_far()

    def connect(self) -> None:
        """Make one connection."""
        if self.side.service is not None:
            self.side.service.wait_for_spares()
        made = say_hello(self.side.start)
        self.times.append(made.took)
        if isinstance(made, Program):
            self.clients += made.cpu

    def end(self, connections: int) -> None:
        """End a round of so many connections."""
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
        # The zygote reaps only the processes that it may fork through.
        found = {SERVICE: own, ZYGOTE: cpu_of(zygote) + cpu_of_reaped(zygote)}
        if self.group is None:
            found[WORKER] = cpu_of_reaped(service.pid)
        else:
            found[WORKER] = self.group.seconds() - sum(found.values())
        return found


def account(
    stack: contextlib.ExitStack, service: Service, side: Callable[[Service], Side]
) -> Account:
    """Start *service* in a control group; the account of its *side*."""
    counted = stack.enter_context(group(os.path.basename(service.directory)))
    stack.enter_context(service)
    if counted is not None:
        counted.add([service.pid, *service.children()])
    return Account(side(service), counted)


def count(accounts: Sequence[Account], rounds: int, per_round: int) -> None:
    """Make *rounds* rounds of *per_round* connections of each account, interleaved."""
    for each in accounts:
        each.connect()
    for _ in range(rounds):
        for each in accounts:
            each.begin()
        in_rounds({x.side.name: x.connect for x in accounts}, per_round, warm=0)
        for each in accounts:
            each.end(per_round)
