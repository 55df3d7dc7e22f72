# SPDX-License-Identifier: GPL-2.0-or-later

"""What processes take: CPU time, memory, descriptors.

/proc has the CPU time of a running process in nanoseconds, but that of the children
that it has reaped in ticks of 10 ms. getrusage(2) has microseconds, only for the
process itself. So code that Python runs at its start (sitecustomize) has the service
write that to a file at SIGRTMIN.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from connections import Program, say_hello
from runner import in_rounds
from sides import Side
from stage import Service, wait_until

CLIENT, SERVICE, ZYGOTE, WORKER = "program and shell", "service", "zygote", "worker"
#: The parts of the CPU time of a connection.
PARTS = (CLIENT, SERVICE, ZYGOTE, WORKER)
#: The name of the file in the environment of the service, and what writes it.
_USAGE = "LPSERVE_USAGE"
_SITECUSTOMIZE = """\
import os, resource, signal, sys
def write(number, frame):
    path = os.environ["LPSERVE_USAGE"]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    with open(path + ".new", "w") as file:
        file.write(str(used.ru_utime + used.ru_stime))
    os.rename(path + ".new", path)
if "--fork-server" in sys.orig_argv:
    signal.signal(signal.SIGRTMIN, write)
"""


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


def ticks_of_reaped(pid: int) -> float:
    """CPU seconds of the children that *pid* has reaped, in steps of 10 ms."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return sum(map(int, fields[13:15])) / os.sysconf("SC_CLK_TCK")


def count_children(service: Service) -> None:
    """Have *service*, before its start, measure the CPU time of its children."""
    place = service.environ["HOME"]
    with open(os.path.join(place, "sitecustomize.py"), "w") as file:
        file.write(_SITECUSTOMIZE)
    service.environ["PYTHONPATH"] = place
    service.environ[_USAGE] = os.path.join(place, "usage")


def cpu_of_reaped(service: Service) -> float:
    """CPU seconds of the children that *service* has reaped."""
    path = service.environ[_USAGE]
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    os.kill(service.pid, signal.SIGRTMIN)
    wait_until(lambda: os.path.exists(path), "the service has written its usage")
    with open(path) as file:
        return float(file.read())


@dataclass
class Account:
    """What the connections of one side take.

    :ivar clients: CPU seconds of the programs of this round.
    :ivar parts: CPU milliseconds per connection, by part, of each round.
    :ivar times: milliseconds to the first byte of each connection.
    """

    side: Side
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
        return {
            SERVICE: cpu_of(service.pid),
            # It reaps only the processes that it may fork through.
            ZYGOTE: cpu_of(service.zygote) + ticks_of_reaped(service.zygote),
            WORKER: cpu_of_reaped(service),
        }


def account(
    stack: contextlib.ExitStack, service: Service, side: Callable[[Service], Side]
) -> Account:
    """Start *service* with `count_children`; the account of its *side*."""
    count_children(service)
    return Account(side(stack.enter_context(service)))


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
