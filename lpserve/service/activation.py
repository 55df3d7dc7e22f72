# SPDX-License-Identifier: GPL-2.0-or-later

"""What systemd has passed to the service: doors (systemd.socket(5)), and what it kept
from before a restart (``FileDescriptorStoreMax=``)."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ..errors import RuntimeDirectoryError
from ..paths import RuntimeDirectory
from ..systemd import Passed
from .warmstore import PREFIX

log = logging.getLogger("lpserve")


@dataclass
class Activation:
    """What systemd or a predecessor has passed, checked and sorted.

    :ivar control: the descriptor of the control FIFO, or None.
    :ivar socket: that of the socket, or None.
    :ivar kept: what the descriptor store had for `warmstore`.
    :ivar unknown: names in the descriptor store that nobody here knows.
    :ivar lasting: whether systemd has made the doors: they outlive the service.
    """

    control: int | None = None
    socket: int | None = None
    kept: list[Passed] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    lasting: bool = True


def sort_descriptors(
    passed: Iterable[Passed], directory: RuntimeDirectory
) -> Activation:
    """Find out what was passed.

    :param directory: prepared: nobody else can put anything into it.
    :raises RuntimeDirectoryError: for a FIFO or a socket that is not to be a door.
    """
    found = Activation()
    for each in passed:
        mode = os.fstat(each.descriptor).st_mode
        if stat.S_ISFIFO(mode):
            _check(each, "ListenFIFO", directory.control, _fifo_fault)
            _check_once(each, found.control)
            found.control = each.descriptor
        elif stat.S_ISSOCK(mode):
            _check(each, "ListenStream", directory.socket, _socket_fault)
            _check_once(each, found.socket)
            found.socket = each.descriptor
        elif each.name.startswith(PREFIX):
            found.kept.append(each)
        else:
            # What a later version keeps, perhaps.
            log.warning("systemd passed %r, which is nothing of ours", each.name)
            found.unknown.append(each.name)
            os.close(each.descriptor)
    return found


def _check(
    passed: Passed,
    setting: str,
    path: str,
    find_fault: Callable[[int, str], str | None],
) -> None:
    fault = find_fault(passed.descriptor, path)
    if fault is not None:
        raise RuntimeDirectoryError(
            f"systemd passed descriptor {passed.descriptor} ({passed.name}), {fault}; "
            f"its socket unit should say {setting}={path}"
        )


def _check_once(passed: Passed, before: int | None) -> None:
    if before is not None:
        raise RuntimeDirectoryError(
            f"systemd passed descriptors {before} and {passed.descriptor} "
            f"({passed.name}), which are the same door"
        )


def _fifo_fault(descriptor: int, path: str) -> str | None:
    """Why the FIFO *descriptor* cannot be the one at *path*, or None."""
    found = os.fstat(descriptor)
    try:
        named = os.lstat(path)
    except OSError:
        return "another FIFO"
    if not os.path.samestat(found, named):
        return "another FIFO"
    if fault := _owner_fault(found):
        return fault
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        return f"a FIFO that others can use (mode {mode:04o}, not SocketMode=0600)"
    # With a reader alone it ends when the last writer has gone.
    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDWR:
        return "a FIFO that is not open for reading and writing"
    return None


def _socket_fault(descriptor: int, path: str) -> str | None:
    """Why the socket *descriptor* cannot be the one at *path*, or None."""
    # As the kernel says what it is.
    link = socket.socket(fileno=descriptor)
    try:
        if link.family != socket.AF_UNIX or link.type != socket.SOCK_STREAM:
            return "another kind of socket"
        if not link.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return "a socket that does not listen (Accept=no is needed)"
        try:
            bound, named = os.stat(link.getsockname()), os.lstat(path)
        except (OSError, ValueError):
            return "another socket"
    finally:
        link.detach()
    # It is bound to that path, and nobody but us can have put another one there.
    if not (stat.S_ISSOCK(named.st_mode) and os.path.samestat(bound, named)):
        return "another socket"
    # Who gets to it is our affair: see `SocketDoor.admit`.
    return _owner_fault(named)


def _owner_fault(found: os.stat_result) -> str | None:
    if found.st_uid != os.geteuid():
        return f"which belongs to uid {found.st_uid} (SocketUser=), not to us"
    return None
