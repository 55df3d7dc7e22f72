# SPDX-License-Identifier: GPL-2.0-or-later

"""What /proc tells of the service, the zygote and the workers (proc(5))."""

from __future__ import annotations

import random
import re
import time
from dataclasses import dataclass, field

#: Seconds for which the memory of workers is read: the kernel walks through all of it,
#: which takes a millisecond or two for each.
PATIENCE = 0.1

_pss = re.compile(rb"(?m)^Pss: +([0-9]+) kB$")
_limit = re.compile(rb"(?m)^Max open files +([0-9]+) ")


@dataclass(frozen=True)
class Measured:
    """What is known; the rest could not be read.

    :ivar pss: bytes of memory, by "service", "zygote" and "workers". What processes
        share is divided among them. That of many workers is an estimate.
    :ivar max_descriptors: how many the service may have open.
    """

    pss: dict[str, int] = field(default_factory=dict)
    max_descriptors: int | None = None


def measure(service: object, zygote: object, patience: float = PATIENCE) -> Measured:
    """Read what there is of the processes with these pids.

    Nothing is known if they are not parent and child here: the pids may be those of
    another namespace.
    """
    if not isinstance(service, int) or not isinstance(zygote, int):
        return Measured()
    children = _read(service, f"task/{service}/children").split()
    if b"%d" % zygote not in children:
        return Measured()
    until = time.monotonic() + patience
    found: dict[str, int | None] = {
        "service": _proportional(service),
        "zygote": _proportional(zygote),
        "workers": _sum([int(pid) for pid in children if int(pid) != zygote], until),
    }
    match = _limit.search(_read(service, "limits"))
    return Measured(
        {name: size for name, size in found.items() if size is not None},
        int(match[1]) if match else None,
    )


def _sum(pids: list[int], until: float) -> int | None:
    """Bytes of memory of all *pids*; None if they may not be read.

    When the time is over, those that were not read count as the mean of the others.
    """
    random.shuffle(pids)
    total = 0
    for done, pid in enumerate(pids):
        if done and time.monotonic() > until:
            return total * len(pids) // done
        size = _proportional(pid)
        if size is not None:
            total += size
        elif _read(pid, "statm").split()[:1] not in ([], [b"0"]):
            return None  # it has not ended
    return total


def _proportional(pid: int) -> int | None:
    match = _pss.search(_read(pid, "smaps_rollup"))
    return int(match[1]) << 10 if match else None


def _read(pid: int, name: str) -> bytes:
    """The content of /proc/*pid*/*name*; b"" if it cannot be read."""
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read()
    except OSError:
        return b""
