# SPDX-License-Identifier: GPL-2.0-or-later

"""Calls Landlock (landlock(7)): a process gives up rights, with its children.

libc has no functions for the three system calls.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import functools
import os
import stat
import sys
from typing import Any

# The same on every architecture that has Landlock but Alpha.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
# <linux/prctl.h>
_PR_SET_NO_NEW_PRIVS = 38


class Access(enum.IntFlag):
    """``LANDLOCK_ACCESS_FS_*``: what may be done to a file or in a directory."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    #: Rename and link between directories; every ruleset denies it by default.
    REFER = 1 << 13
    TRUNCATE = 1 << 14


class Scope(enum.IntFlag):
    """``LANDLOCK_SCOPE_*``: what is denied towards processes outside the ruleset."""

    ABSTRACT_UNIX_SOCKET = 1 << 0
    SIGNAL = 1 << 1


#: All rights that allow changes.
WRITE = (
    Access.WRITE_FILE
    | Access.REMOVE_DIR
    | Access.REMOVE_FILE
    | Access.MAKE_CHAR
    | Access.MAKE_DIR
    | Access.MAKE_REG
    | Access.MAKE_SOCK
    | Access.MAKE_FIFO
    | Access.MAKE_BLOCK
    | Access.MAKE_SYM
    | Access.REFER
    | Access.TRUNCATE
)
READ = Access.EXECUTE | Access.READ_FILE | Access.READ_DIR
#: The rights that apply to files; the others apply to directories.
_OF_FILES = Access.EXECUTE | Access.WRITE_FILE | Access.READ_FILE | Access.TRUNCATE

#: The rights that were added later, with the first version that has them.
_ACCESS_SINCE = ((2, Access.REFER), (3, Access.TRUNCATE))
_SCOPE_SINCE = 6


class _RulesetAttributes(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


@functools.lru_cache(maxsize=1)
def _libc() -> Any:
    # PyDLL keeps the GIL: none of the calls blocks. Loaded late, because other
    # systems, where --inet works, may not have it.
    return ctypes.PyDLL(None, use_errno=True)


def _check(result: int) -> int:
    if result < 0:
        fault = ctypes.get_errno()
        raise OSError(fault, os.strerror(fault))
    return result


def _call(number: int, *arguments: object) -> int:
    return _check(_libc().syscall(ctypes.c_long(number), *arguments))


def version() -> int:
    """The version of the kernel's interface, from 1.

    :raises OSError: if there is none: ENOSYS, EOPNOTSUPP (disabled), EPERM (denied
        in a container).
    """
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    size, flags = ctypes.c_size_t(0), ctypes.c_uint32(_CREATE_RULESET_VERSION)
    return _call(_CREATE_RULESET, None, size, flags)


def forgo_privileges() -> None:
    """Set PR_SET_NO_NEW_PRIVS: setuid, setgid and capabilities have no effect.

    The kernel requires this before a process that is not root restricts itself.

    :raises OSError: if the kernel refuses.
    """
    one, zero = ctypes.c_ulong(1), ctypes.c_ulong(0)
    _check(_libc().prctl(_PR_SET_NO_NEW_PRIVS, one, zero, zero, zero))


class Ruleset:
    """A set of rights that are denied, and of paths where they are allowed.

    Rights that the kernel does not support are left out.

    :param abi: the result of `version`.
    :param handled: the rights that are denied.
    :param scoped: `Scope` flags; the exceptions are the processes in the same sandbox.
    :ivar descriptor: of the ruleset; -1 once it is closed.
    :raises OSError: if it cannot be created.
    """

    def __init__(self, abi: int, handled: Access, scoped: int = 0):
        for since, access in _ACCESS_SINCE:
            if abi < since:
                handled &= ~access
        attributes = _RulesetAttributes(
            handled_access_fs=handled, scoped=scoped if abi >= _SCOPE_SINCE else 0
        )
        self._handled = handled
        self.descriptor = _call(
            _CREATE_RULESET,
            ctypes.byref(attributes),
            ctypes.c_size_t(ctypes.sizeof(attributes)),
            ctypes.c_uint32(0),
        )

    def allow(self, path: str, access: Access) -> None:
        """Allow *access* to *path* and everything beneath it.

        The rule refers to the inode: it still applies after a rename.

        :raises OSError: if *path* does not exist or cannot be opened.
        """
        allowed = access & self._handled
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISDIR(os.fstat(beneath).st_mode):
                allowed &= _OF_FILES
            if allowed:
                rule = _PathBeneath(allowed_access=allowed, parent_fd=beneath)
                _call(
                    _ADD_RULE,
                    ctypes.c_int(self.descriptor),
                    ctypes.c_int(_RULE_PATH_BENEATH),
                    ctypes.byref(rule),
                    ctypes.c_uint32(0),
                )
        finally:
            os.close(beneath)

    def restrict(self) -> None:
        """Restrict this thread and its children permanently; then `close`.

        :raises OSError: E2BIG if there are 16 layers of restrictions already.
        """
        try:
            _call(_RESTRICT_SELF, ctypes.c_int(self.descriptor), ctypes.c_uint32(0))
        finally:
            self.close()

    def close(self) -> None:
        """Close the descriptor; idempotent."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
