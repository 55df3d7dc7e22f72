# SPDX-License-Identifier: GPL-2.0-or-later

"""The sandbox of this process: isolates it, and restricts it to a user.

`confine` computes the rules. A zygote enters its sandbox before it is ready, so its
workers and loaders inherit it. The sandbox is a second line of defence after
`serving.containment`. The service runs without it on kernels without Landlock.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigurationError
from ..root import find
from .landlock import WRITE, Access, Ruleset

#: Bytes at which Breezy rotates brz.log, which only a new zygote can do.
MAX_LOG = 4 << 20
#: Seconds between two checks by a zygote that its paths are still the same.
LOOK_AGAIN = 1.0

NOTHING = Access(0)
#: To read files and directories.
DATA = Access.READ_FILE | Access.READ_DIR
#: To change files and directories, without creating devices.
TREE = WRITE & ~(Access.MAKE_CHAR | Access.MAKE_BLOCK)


def served(allow_writes: bool) -> Access:
    """The rights for the directory that is served."""
    return TREE | DATA if allow_writes else DATA


def identity(path: str) -> Any:
    """The device and inode of *path*; None if it does not exist."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


@dataclass
class Sandbox:
    """The sandbox of this process.

    :ivar asked: the value of ``lpserve.sandbox``.
    :ivar holds: what is enforced: "writes", "strict" or "off".
    :ivar abi: the version of the kernel's Landlock, 0 if there is none.
    :ivar why: why it is off although `asked` is not "off"; "" otherwise.
    :ivar warnings: what an administrator should correct, a line each.
    """

    asked: str = "off"
    holds: str = "off"
    abi: int = 0
    why: str = ""
    warnings: list[str] = field(default_factory=list)
    #: The ruleset of `isolate`.
    wall: Ruleset | None = None
    #: The rights that are denied, and where they are allowed for every user.
    handled: Access = NOTHING
    rules: dict[str, Access] = field(default_factory=dict)
    #: ``lpserve.directory``, if `restrict_to_user` has to restrict it; else None.
    directory: str | None = None
    #: The `identity` of each path in the configuration.
    seen: dict[str, Any] = field(default_factory=dict)
    #: The log that a new zygote has to rotate when it is large.
    log: str | None = None
    _narrow: Ruleset | None = None
    _next_look: float = field(default_factory=lambda: time.monotonic() + LOOK_AGAIN)

    def report(self) -> dict[str, Any]:
        """The sandbox in the answer to ``status``."""
        names = ("asked", "holds", "abi", "why")
        return {name: getattr(self, name) for name in names}

    @property
    def descriptors(self) -> list[int]:
        """The descriptors that forked children need."""
        return [] if self.wall is None else [self.wall.descriptor]

    def isolate(self) -> None:
        """Separate this process from its zygote, the service and other workers.

        To be called right after the fork. From then on the process can trace, and send
        signals to, only the processes that it starts itself.
        """
        if self.wall is None:
            return
        try:
            self.wall.restrict()
        except OSError as error:
            if error.errno != errno.E2BIG:  # too many layers, in a nested sandbox
                raise

    def prepare(self) -> None:
        """Do the part of `restrict_to_user` that does not depend on the user."""
        if self.directory is not None:
            self._narrow = Ruleset(self.abi, self.handled)
            for path, access in self.rules.items():
                with contextlib.suppress(FileNotFoundError):
                    self._narrow.allow(path, access)

    def restrict_to_user(self, user: str, allow_writes: bool) -> None:
        """Deny access to the directories of other users, if each user has one.

        :raises ConfigurationError: if the directory of *user* does not exist, or the
            kernel refuses.
        """
        if self._narrow is None:
            return
        root = find(self.directory, user)
        try:
            if root != os.devnull:
                self._narrow.allow(root, served(allow_writes))
            self._narrow.restrict()
        except OSError as error:
            raise ConfigurationError(
                f"lpserve.sandbox: cannot be restricted to {user}: {error.strerror}"
            ) from None

    def outdated(self) -> str:
        """Why the zygote has to be replaced; "" if it need not, or was just checked.

        A rule of Landlock refers to an inode. It does not apply to a directory that has
        replaced another one.
        """
        now = time.monotonic()
        if now < self._next_look:
            return ""
        self._next_look = now + LOOK_AGAIN
        for path, seen in self.seen.items():
            if identity(path) != seen:
                return f"{path} is another one now"
        with contextlib.suppress(OSError):
            if self.log is not None and os.stat(self.log).st_size > MAX_LOG:
                return f"{self.log} is to be begun anew"
        return ""
