# SPDX-License-Identifier: GPL-2.0-or-later

"""The access rules, as the service sees them: it tells its log, its zygotes and those
who ask. Workers see to them themselves.

It looks at the file of rules and at nothing that is served.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from typing import Any

from ..access import LEVELS, READ
from ..accessfile import AccessFile, open_access_file
from .generation import Generation

log = logging.getLogger("lpserve")


class AccessWatch:
    """Looks after ``lpserve.access``.

    :param renew_spares: has spare workers made anew, which have the rules before.
    """

    def __init__(self, renew_spares: Callable[[], None]):
        self._renew_spares = renew_spares
        self._file: AccessFile | None = None
        self._writable = True
        self._zygote: Generation | None = None
        #: Whether the zygote has not got the rules yet; whether nobody has compared
        #: them with what is served.
        self._untold = self._unchecked = False
        self._fault = ""
        self._pretences: list[str] = []

    def use(self, settings: dict[str, Any], zygote: Generation) -> None:
        """Another zygote serves, or with other settings: before it forks.

        :param settings: what `settings.Settings.for_worker` says.
        """
        self._writable = settings["allow_writes"]
        wanted = settings["access"], settings["directory"]
        if self._file is None or wanted != (self._file.path, self._file.directory):
            self._fault, self._pretences = "", []
            self._file = open_access_file(settings)
        self._zygote, self._untold = zygote, self._file is not None
        self._look()
        self._unchecked = True
        self._tell()

    def check(self) -> None:
        """Look whether the file has changed: a chore."""
        if self._look():
            self._untold = True
        if self._untold and self._tell():
            self._renew_spares()

    def _look(self) -> bool:
        if (file := self._file) is None:
            return False
        before = file.rules
        changed = file.look()
        if file.rules is not before and file.rules is not None:
            self._unchecked, self._pretences = True, []
            count = len(file.rules.sections)
            log.info("access rules: %s: %d sections", file.path, count)
        if file.fault != self._fault:
            self._fault = file.fault
            if file.fault:
                log.error("access rules: %s; %s", file.fault, self._consequence())
            else:
                log.info("access rules: %s can be used again", file.path)
        return changed

    def _consequence(self) -> str:
        if self._file is not None and self._file.rules is not None:
            return "those before it stay"
        return "nobody is let in"

    def _tell(self) -> bool:
        """Give the rules to the zygote; whether it has them."""
        file, zygote = self._file, self._zygote
        if file is None or file.rules is None or zygote is None:
            return False
        with contextlib.suppress(OSError):  # it has gone, or has no time: later
            descriptor = os.memfd_create("access")
            try:
                with open(descriptor, "wb", closefd=False) as text:
                    text.write(file.content)
                os.lseek(descriptor, 0, os.SEEK_SET)
                zygote.give_access(
                    descriptor, state=file.state(), unchecked=self._unchecked
                )
            finally:
                os.close(descriptor)
            self._untold = self._unchecked = False
            return True
        return False

    def handle_message(self, message: dict[str, Any]) -> None:
        """A worker has compared the rules with what is served."""
        lines = [str(line) for line in message.get("lines", ())]
        for line in lines:
            if line not in self._pretences:
                log.warning("access rules: %s", line)
        self._pretences = lines

    # -- who asks --------------------------------------------------------------

    def status(self) -> dict[str, Any] | None:
        """What ``status`` tells; None if there is no such file."""
        self.check()
        if (file := self._file) is None:
            return None
        return {
            "file": file.path,
            "sections": len(file.rules.sections) if file.rules else None,
            "fault": file.fault,
        }

    @property
    def warnings(self) -> list[str]:
        """What somebody should see to: a line each."""
        lines = [f"access rules: {line}" for line in self._pretences]
        if self._fault:
            lines.insert(0, f"access rules: {self._fault}; {self._consequence()}")
        return lines

    def explain(self, user: str, path: str) -> tuple[str, str]:
        """What *user* may do with *path*, and where that is said: the file, the line.

        The line is 0 if none says anything. No link is followed: what is served is
        not looked at.

        :param path: below ``lpserve.directory``, as in a section.
        :raises ValueError: if there are no rules, or *path* cannot be such a path.
        """
        names = [name for name in path.split("/") if name]
        if not path.startswith("/") or {".", ".."} & {*names}:
            raise ValueError("PATH is one below lpserve.directory; it begins with /")
        self.check()
        if self._file is None:
            raise ValueError("lpserve.access is not set")
        if self._file.rules is None:
            raise ValueError(f"{self._fault}; nobody is let in")
        level, line = self._file.rules.for_user(user).decide("/".join(names))
        if not self._writable:
            level = min(level, READ)
        return LEVELS[level], f"{self._file.path}:{line}"
