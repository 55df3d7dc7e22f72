# SPDX-License-Identifier: GPL-2.0-or-later

"""What an lp-serve-ssh tells of itself: the file ssh-PID.json in the runtime directory.

It renews the file every `INTERVAL` seconds. Whoever wants to know reads the file, and
so waits for nobody.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import time
from dataclasses import dataclass, field
from typing import Any

from .location import directory_fault, uid_fault
from .loginrules import REASONS

#: Seconds between two renewals of the file.
INTERVAL = 5.0
#: Seconds after which a file is out of date: its process hangs or is stopped.
_OUTDATED = 4 * INTERVAL
#: The longest file in bytes, and the most files that are read.
_LONGEST = 8192
_MOST_FILES = 64

#: How logins end: well, or with the reason of `loginrules.REASONS`.
ACCEPTED = "accepted"
LOGINS = (ACCEPTED, *REASONS)
#: Why connections are dropped before they can log in; see `ssh.limits`.
DROPS = ("penalty", "max_penalties", "per_source_max_startups", "max_startups")
#: What a connection is doing.
LOGGING_IN, LOGGED_IN = STATES = ("logging_in", "logged_in")

_name = re.compile(r"ssh-([0-9]{1,10})\.json")
_address = re.compile(r"[0-9A-Fa-f.:\[\]]{3,64}")


@dataclass(frozen=True)
class SshState:
    """What one process tells.

    :ivar listen: the address and the port where it listens.
    :ivar started: when, in seconds of Unix time.
    :ivar stopping: whether it accepts no connections any more.
    :ivar connections: how many there are now, by `STATES`.
    :ivar sessions: how many there are now.
    :ivar logins, drops, penalties: how many there were since the start, by `LOGINS`,
        `DROPS` and the reasons of `loginrules.REASONS`.
    :ivar up: whether the file is up to date.
    """

    listen: str
    started: float
    stopping: bool = False
    connections: dict[str, int] = field(default_factory=dict)
    sessions: int = 0
    logins: dict[str, int] = field(default_factory=dict)
    drops: dict[str, int] = field(default_factory=dict)
    penalties: dict[str, int] = field(default_factory=dict)
    up: bool = True


def _path(directory: str, pid: int) -> str:
    return os.path.join(directory, f"ssh-{pid}.json")


def write_state(directory: str, state: SshState) -> None:
    """Write the file of this process in the runtime directory *directory*.

    :raises OSError: if it cannot be written; the one before stays.
    """
    pid = os.getpid()
    content = {
        "begun": _begun(pid),
        "now": time.monotonic(),
        "listen": state.listen,
        "started": state.started,
        "stopping": state.stopping,
        "connections": state.connections,
        "sessions": state.sessions,
        "logins": state.logins,
        "drops": state.drops,
        "penalties": state.penalties,
    }
    # The service removes what begins like this, if it is left.
    temporary = os.path.join(directory, f".new-ssh-{pid}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    try:
        with open(os.open(temporary, flags, 0o600), "w") as file:
            json.dump(content, file)
        os.rename(temporary, _path(directory, pid))
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def remove_state(directory: str) -> None:
    """Remove the file of this process, and those of processes that were killed."""
    with contextlib.suppress(OSError):
        os.unlink(_path(directory, os.getpid()))
    for pid in _pids(directory):
        with contextlib.suppress(OSError):
            if not _begun(pid):
                os.unlink(_path(directory, pid))


def read_states(directory: str, service_user: str | None = None) -> list[SshState]:
    """What the processes tell that run now; nothing if *directory* is not trusted.

    :param service_user: whose directory is trusted beside our own and root's.
    """
    try:
        owner = os.stat(directory).st_uid
        if uid_fault(owner, service_user) or directory_fault(directory, owner):
            return []
        pids = sorted(_pids(directory))
    except OSError:
        return []
    found = (_read(directory, pid, owner) for pid in pids[:_MOST_FILES])
    return [state for state in found if state is not None]


def _pids(directory: str) -> list[int]:
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return [int(match[1]) for match in map(_name.fullmatch, names) if match]


def _read(directory: str, pid: int, owner: int) -> SshState | None:
    """The state of the process *pid*; None if it has ended, or the file is odd."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW
    try:
        with open(os.open(_path(directory, pid), flags), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_uid != owner:
                return None
            data = file.read(_LONGEST)
        content: dict[str, Any] = json.loads(data)
        if content["begun"] != _begun(pid):
            return None  # of a process that was killed
        return _checked(content)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _checked(content: dict[str, Any]) -> SshState:
    """*content* as a state.

    :raises ValueError, TypeError, KeyError: if something in it is of another kind.
    """
    listen = content["listen"]
    if not _address.fullmatch(listen):
        raise ValueError(listen)
    return SshState(
        listen,
        float(content["started"]),
        bool(content["stopping"]),
        _counts(content["connections"], STATES),
        _count(content["sessions"]),
        _counts(content["logins"], LOGINS),
        _counts(content["drops"], DROPS),
        _counts(content["penalties"], tuple(REASONS)),
        -1 < time.monotonic() - float(content["now"]) < _OUTDATED,
    )


def _counts(found: Any, names: tuple[str, ...]) -> dict[str, int]:
    if not isinstance(found, dict):
        raise ValueError(found)
    return {name: _count(found.get(name, 0)) for name in names}


def _count(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value < 1 << 53:
        raise ValueError(value)
    return value


def _begun(pid: int) -> int:
    """When the process *pid* began, in ticks since the boot; 0 if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            words = file.read().rpartition(b") ")[2].split()
    except OSError:
        return 0
    return int(words[19]) if len(words) > 19 and words[0] not in (b"Z", b"X") else 0
