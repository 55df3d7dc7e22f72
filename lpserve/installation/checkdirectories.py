# SPDX-License-Identifier: GPL-2.0-or-later

"""Checks what is served, the runtime directory, the log, and the space on disks."""

from __future__ import annotations

import fcntl
import os
import shlex
from collections.abc import Iterator

from ..drained import drained_path, read_drained
from ..location import directory_fault
from ..root import is_shared, shared_part
from ..settings import Settings
from .findings import Finding, error, warning
from .modes import blocked, describe, searchable
from .place import Place
from .unitfiles import find_unit

#: Bytes and inodes below which a file system counts as full.
LEAST_FREE = 64 << 20
LEAST_INODES = 1000


def check_served(place: Place, settings: Settings) -> Iterator[Finding]:
    """Check the directory that is served."""
    if not settings.directory:
        return  # said by `check_values`
    path = shared_part(os.path.abspath(settings.directory))
    quoted = shlex.quote(path)
    if (where := blocked(path, searchable)) is not None:
        yield error(
            f"{place.account} may not search {where}, which is above what is served",
            f"setfacl -m u:{place.account}:x {shlex.quote(where)}, or chmod o+x",
        )
        return
    if not os.path.isdir(path):
        why = "is not a directory" if os.path.lexists(path) else "is missing"
        yield error(
            f"{path}, which lpserve.directory names, {why}",
            f"install -d -o {place.account} -m 0755 {quoted}",
        )
        return
    found = os.stat(path)
    wanted = os.R_OK | os.X_OK
    if not os.access(path, wanted):
        yield error(
            f"{place.account} may not read {path} ({describe(found)})",
            f"chown -R {place.account} {quoted}",
        )
    elif (
        settings.allow_writes
        and is_shared(settings.directory)
        and not os.access(path, wanted | os.W_OK)
    ):
        yield warning(
            f"{place.account} may not write to {path} ({describe(found)}), though "
            "lpserve.allow_writes is set",
            f"chown -R {place.account} {quoted}, or give the rights that are missing",
        )
    if found.st_mode & 0o002:
        yield error(
            f"every user of this host may write to {path} ({describe(found)})",
            f"chmod o-w {quoted}",
        )
    yield from _check_secrets(place, path)


def _check_secrets(place: Place, top: str) -> Iterator[Finding]:
    """Check that nothing is served that says who may do what."""
    top = os.path.realpath(top)
    for path in (place.config, os.path.join(place.home, ".ssh"), place.keys_directory):
        real = os.path.realpath(path)
        if os.path.exists(real) and os.path.commonpath((top, real)) == top:
            yield error(
                f"{path} is inside {top}, which is served: clients could change it",
                "serve a directory that has nothing but branches in it",
            )


def check_runtime(place: Place, settings: Settings) -> Iterator[Finding]:
    """Check the runtime directory, whether a service runs or not."""
    path = place.runtime_dir
    quoted = shlex.quote(path)
    if not os.path.lexists(path):
        unit = find_unit("lpserve.service", place.units)
        made = unit.last("Service", "RuntimeDirectory") if unit else None
        above = os.path.dirname(path)
        while not os.path.lexists(above):
            above = os.path.dirname(above)
        if path != f"/run/{made}" and not os.access(above, os.W_OK | os.X_OK):
            yield error(
                f"there is no {path}, and {place.account} cannot make it in {above}",
                f"install -d -o {place.account} -m 0700 {quoted}, at each boot if it "
                "is in /run (RuntimeDirectory= of the unit does that)",
            )
        return
    try:
        fault = directory_fault(path, place.uid)
    except OSError as problem:
        fault = f"{path}: {problem.strerror}"
    if fault is not None:
        yield error(
            f"runtime directory: {fault}",
            f"chown {place.account} {quoted}; chmod 0700 {quoted}",
        )
        return
    yield from _check_drained(place, settings)
    yield from _check_lock(path, has_socket(place))


def _check_drained(place: Place, settings: Settings) -> Iterator[Finding]:
    message = read_drained(place.runtime_dir, settings.service_user)
    if message is not None:
        yield warning(
            f"the host is out of service, every client is told: {message} "
            f"({drained_path(place.runtime_dir)})",
            "brz lp-serve-control resume",
        )
    elif os.path.lexists(drained_path(place.runtime_dir)):
        yield warning(
            f"{drained_path(place.runtime_dir)} cannot be read, or is not a file",
            "remove it: brz lp-serve-control resume",
        )


def has_socket(place: Place) -> bool:
    """Whether systemd makes the doors, and starts the service when somebody comes."""
    return find_unit("lpserve.socket", place.units) is not None


def _check_lock(path: str, activated: bool) -> Iterator[Finding]:
    """Look for what a killed service left, or what a running one has lost.

    :param activated: whether there may be doors without a service.
    """
    doors = [
        name for name in ("control", "socket") if os.path.lexists(f"{path}/{name}")
    ]
    if is_locked(path):
        for name in {"control", "socket"} - set(doors):
            yield error(
                f"{path}/{name} was removed though a service runs",
                "stop the service and start it: clients cannot reach it there",
            )
    elif doors and not activated:
        yield warning(
            f"{path} has doors of a service that was killed: {', '.join(doors)}",
            "start the service, which removes them",
        )


def is_locked(path: str) -> bool:
    """Whether a service holds the runtime directory *path*."""
    try:
        number = os.open(f"{path}/lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(number, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(number)
    return False


def check_log(place: Place, settings: Settings, default: str) -> Iterator[Finding]:
    """Check that the log of a service in the background can be written.

    :param default: where it is unless lpserve.log_file says something else.
    """
    path = os.path.abspath(os.path.expanduser(settings.log_file or default))
    above = os.path.dirname(path)
    if os.path.isdir(path):
        yield error(
            f"lpserve.log_file: {path} is a directory", "name a file in it instead"
        )
    elif os.path.lexists(path):
        if not os.access(path, os.W_OK):
            yield error(
                f"the log {path} cannot be written by {place.account}",
                f"chown {place.account} {shlex.quote(path)}",
            )
    elif settings.log_file and not os.access(above, os.W_OK | os.X_OK):
        why = "is not there" if not os.path.isdir(above) else "cannot be written"
        yield error(
            f"the log {path} cannot be made: {above} {why}",
            f"install -d -o {place.account} -m 0750 {shlex.quote(above)}",
        )


def check_space(place: Place, settings: Settings, temporary: str) -> Iterator[Finding]:
    """Check that there is room where files are written.

    :param temporary: the directory of temporary files.
    """
    served = shared_part(os.path.abspath(settings.directory or "/"))
    seen = set()
    for path in (served, place.runtime_dir, temporary, os.path.dirname(place.config)):
        try:
            device, found = os.stat(path).st_dev, os.statvfs(path)
        except OSError:
            continue
        if device in seen or found.f_flag & os.ST_RDONLY:
            continue
        seen.add(device)
        if found.f_bavail * found.f_frsize < LEAST_FREE:
            free = found.f_bavail * found.f_frsize >> 20
            yield error(
                f"the disk of {path} is full: {free} MiB are free", "make room there"
            )
        if found.f_files and found.f_favail < LEAST_INODES:
            yield error(
                f"the disk of {path} has {found.f_favail} inodes left",
                "remove files there",
            )
