# SPDX-License-Identifier: GPL-2.0-or-later

"""Who owns a path, and who may change it: as sshd (StrictModes) looks at it."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Callable, Iterator

from .findings import Finding, error


def parents(path: str) -> Iterator[str]:
    """The directories above *path*, the nearest first."""
    while (above := os.path.dirname(path)) != path:
        yield above
        path = above


def describe(found: os.stat_result) -> str:
    """Mode and owner, as in "mode 0775, uid 1000"."""
    return f"mode {stat.S_IMODE(found.st_mode):04o}, uid {found.st_uid}"


def is_changeable(found: os.stat_result) -> bool:
    """Whether group or others may write to it."""
    return bool(found.st_mode & 0o022)


def check_trusted(path: str, uid: int, account: str) -> Iterator[Finding]:
    """Check that only root and the account can change the file or directory *path*.

    :param uid: of *account*.
    """
    try:
        found = os.stat(path)
    except OSError as fault:
        yield error(f"{path}: {fault.strerror}", f"see why with: ls -ld {_q(path)}")
        return
    if found.st_uid not in (0, uid):
        yield error(
            f"{path} is owned by uid {found.st_uid}, not by {account} or root",
            f"chown {account} {_q(path)}",
        )
    if is_changeable(found):
        yield error(
            f"{path} is writable by others ({describe(found)})",
            f"chmod go-w {_q(path)}",
        )


def strict_fault(path: str, uid: int, home: str) -> tuple[str, str] | None:
    """Why sshd's StrictModes ignores the file *path*; None if it does not.

    sshd looks at the file and at each directory above it, up to the home directory or,
    outside of it, to the root directory.

    :param uid: of the account.
    :returns: what is wrong, and a remedy.
    :raises OSError: if something cannot be examined.
    """
    path, home = os.path.realpath(path), os.path.realpath(home)
    for each in (path, *parents(path)):
        found = os.stat(each)
        if found.st_uid not in (0, uid):
            return f"{each} is owned by uid {found.st_uid}", f"chown {uid} {_q(each)}"
        if is_changeable(found):
            why = f"{each} is writable by others ({describe(found)})"
            return why, f"chmod go-w {_q(each)}"
        if each == home:
            break
    return None


def blocked(path: str, allows: Callable[[str], bool]) -> str | None:
    """The directory above *path* that this process may not search; None if it may.

    :param allows: whether a directory may be searched.
    """
    for each in reversed([*parents(path)]):
        if os.path.isdir(each) and not allows(each):
            return each
    return None


def searchable(path: str) -> bool:
    """Whether this process may search the directory *path*."""
    return os.access(path, os.X_OK)


def _q(path: str) -> str:
    return shlex.quote(path)
