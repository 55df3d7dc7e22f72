# SPDX-License-Identifier: GPL-2.0-or-later

"""What a process that serves connections may do to files, as the kernel sees to it.

`confine` finds out what that is. A zygote enters its sandbox before it says that it is
ready, so all its workers and loaders are born in it. It is a second wall: nothing
depends on it for what it does, and where the kernel has none the service runs on
without.
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

#: Bytes after which Breezy begins brz.log anew, which takes another zygote.
MAX_LOG = 4 << 20
#: Seconds until a zygote looks once more whether its paths are still the same.
LOOK_AGAIN = 1.0

NOTHING = Access(0)
#: To read files and directories.
DATA = Access.READ_FILE | Access.READ_DIR
#: To change whatever is there; nobody here makes devices.
TREE = WRITE & ~(Access.MAKE_CHAR | Access.MAKE_BLOCK)


def served(allow_writes: bool) -> Access:
    """What may be done to what is served."""
    return TREE | DATA if allow_writes else DATA


def identity(path: str) -> Any:
    """What *path* is, whatever it is called; None if it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


@dataclass
class Sandbox:
    """What holds for this process.

    :ivar asked: ``lpserve.sandbox``.
    :ivar holds: "writes", "strict" or "off".
    :ivar abi: the version of the kernel's Landlock, 0 if there is none.
    :ivar why: why it is off though it was not asked to be; "" otherwise.
    :ivar warnings: what an administrator should see to beside that: a line each.
    """

    asked: str = "off"
    holds: str = "off"
    abi: int = 0
    why: str = ""
    warnings: list[str] = field(default_factory=list)
    #: What it takes to `isolate`.
    wall: Ruleset | None = None
    #: The rights that do not hold everywhere, and where they hold for every user.
    handled: Access = NOTHING
    rules: dict[str, Access] = field(default_factory=dict)
    #: What is served, if it is to be narrowed to a user's.
    directory: str | None = None
    #: Paths that somebody has named, and what they were.
    seen: dict[str, Any] = field(default_factory=dict)
    #: The log that is to be begun anew when it is long.
    log: str | None = None
    _narrow: Ruleset | None = None
    _next_look: float = field(default_factory=lambda: time.monotonic() + LOOK_AGAIN)

    def report(self) -> dict[str, Any]:
        """What ``status`` shows of it."""
        names = ("asked", "holds", "abi", "why")
        return {name: getattr(self, name) for name in names}

    @property
    def descriptors(self) -> list[int]:
        """Those that children need."""
        return [] if self.wall is None else [self.wall.descriptor]

    def isolate(self) -> None:
        """Be out of reach for those who were forked before us, and they for us.

        For a process that has just been forked: it cannot trace, nor send signals to,
        the zygote, the service or other workers; only what it starts itself.
        """
        if self.wall is None:
            return
        try:
            self.wall.restrict()
        except OSError as error:
            if error.errno != errno.E2BIG:  # in a sandbox of sandboxes
                raise

    def prepare(self) -> None:
        """Do what can be done for `restrict_to_user` before there is a user."""
        if self.directory is not None:
            self._narrow = Ruleset(self.abi, self.handled)
            for path, access in self.rules.items():
                with contextlib.suppress(FileNotFoundError):
                    self._narrow.allow(path, access)

    def restrict_to_user(self, user: str, allow_writes: bool) -> None:
        """Reach nothing of other users, where each has a directory.

        :raises ConfigurationError: if that cannot be had, or *user* has none.
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
        """Why it takes another zygote; "" if it does not, or not known yet.

        Landlock knows directories and not their names: one that was put in the place
        of another is not allowed.
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
