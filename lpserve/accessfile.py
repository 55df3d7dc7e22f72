# SPDX-License-Identifier: GPL-2.0-or-later

"""The file of access rules: reads it, and sees when it has changed."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from typing import Any

from .access import READ, AccessError, Rules, Section
from .accesssyntax import parse
from .filestamp import FileStamp, stamp_of
from .root import is_shared, shared_part

#: Bytes that a file may have: the service reads it in its loop.
MOST = 512 << 10
#: Seconds after which a file that was not changed would look different if it were.
SETTLED = 2.0
#: How often a file is read that changes meanwhile.
_TRIES = 3

# Windows, where --inet works, has no such flags.
_AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class AccessFile:
    """What ``lpserve.access`` names.

    :param path: absolute.
    :param directory: ``lpserve.directory``, or None.
    :ivar rules: the last good ones; None if there were none.
    :ivar fault: what is wrong with the file now; "" if nothing is.
    :ivar content: the bytes that `rules` were made of.
    """

    def __init__(self, path: str, directory: str | None):
        self.path = path
        self.directory = directory
        self.rules: Rules | None = None
        self.fault = ""
        self.content = b""
        self._stamp: FileStamp | None = None
        self._settled = False
        top = shared_part(os.path.abspath(directory)) if directory else None
        # Now: what is served may be on a server that does not answer later.
        self._tops = {top, os.path.realpath(top)} if top else set()

    def current(self) -> Rules:
        """The rules that hold; after one stat(2), if the file has not changed.

        :raises AccessError: if there are none.
        """
        self.look()
        if self.rules is None:
            raise AccessError("", 0, self.fault)
        return self.rules

    def look(self) -> bool:
        """Read the file again if it has changed; whether there is something new.

        Of a file that cannot be used, `fault` says why, and `rules` stay.
        """
        try:
            stamp = stamp_of(os.stat(self.path))
        except OSError:
            stamp = None
        if stamp is not None and stamp == self._stamp and self._settled:
            return False
        before = self.rules, self.fault, self._settled
        try:
            content = self._read()
            if content != self.content or self.rules is None or self.fault:
                self.rules, self.content = parse(content, self.path), content
            self.fault = ""
        except OSError as error:
            self._settled = False
            self.fault = f"{self.path}: {error.strerror}"
        except AccessError as error:
            self.fault = error.why
        return before != (self.rules, self.fault, self._settled)

    def _read(self) -> bytes:
        """The content of the file.

        :raises OSError: if it cannot be read.
        :raises AccessError: if it must not be trusted.
        """
        # Not a FIFO, which would have us wait for somebody.
        if os.path.isdir(self.path):
            raise AccessError(self.path, 0, "not a file")
        with open(os.open(self.path, os.O_RDONLY | _AT_ONCE), "rb") as file:
            for _ in range(_TRIES):
                before = os.fstat(file.fileno())
                self._check(before)
                file.seek(0)
                content = file.read(MOST + 1)
                after = os.fstat(file.fileno())
                if stamp_of(before) == stamp_of(after):
                    break
        self._stamp = stamp_of(after)
        changed = max(after.st_mtime, after.st_ctime)
        self._settled = changed + SETTLED < time.time()
        if len(content) > MOST:
            raise AccessError(self.path, 0, f"longer than {MOST >> 10} KiB")
        return content

    def _check(self, found: os.stat_result) -> None:
        self._stamp, self._settled = stamp_of(found), True
        if not stat.S_ISREG(found.st_mode):
            raise AccessError(self.path, 0, "not a file")
        if hasattr(os, "geteuid") and found.st_uid not in (0, os.geteuid()):
            raise AccessError(
                self.path,
                0,
                f"it belongs to uid {found.st_uid}, neither to root nor to us",
            )
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            mode = stat.S_IMODE(found.st_mode)
            raise AccessError(
                self.path, 0, f"it is writable by others (mode {mode:04o}): chmod go-w"
            )
        for path in (os.path.abspath(self.path), os.path.realpath(self.path)):
            for top in self._tops:
                if os.path.commonpath((top, path)) == top:
                    raise AccessError(
                        self.path, 0, f"it is inside {top}, which is served"
                    )

    # -- from one process to another -------------------------------------------

    def state(self) -> dict[str, Any]:
        """What `take` needs beside `content`, for JSON."""
        stamp = list(self._stamp or ()) if self._settled and not self.fault else []
        return {"path": self.path, "stamp": stamp}

    def take(self, state: dict[str, Any], content: bytes) -> None:
        """Have the last good rules that another process has found.

        :raises AccessError: if they are not good here.
        """
        if state["path"] == self.path:
            self.rules, self.content = parse(content, self.path), content
            stamp = state["stamp"]
            self._stamp = (*stamp,) if stamp else None
            self._settled = bool(stamp)


def open_access_file(settings: dict[str, Any]) -> AccessFile | None:
    """That of *settings*, not read yet; None if there is none.

    :param settings: what `settings.Settings.for_worker` says.
    """
    path = settings.get("access")
    return AccessFile(path, settings["directory"]) if path else None


# -- rules that pretend ----------------------------------------------------------


def find_pretences(rules: Rules, directory: str | None) -> list[str]:
    """A line for each rule that hides what a shared repository shows.

    Whoever may read a shared repository may read every revision in it. This looks
    into the served directory, which may be on a server that does not answer.

    :param directory: ``lpserve.directory``.
    """
    if not directory or not is_shared(directory):
        return []
    return list(_find_pretences(rules, shared_part(directory)))


def _find_pretences(rules: Rules, top: str) -> Iterator[str]:
    users = {user for each in rules.sections for user in each.users}
    # And one whom no line names.
    everybody = [
        rules.for_user(user) for user in sorted({"", *users, *rules.groups_of})
    ]
    for section in rules.sections:
        if section.denies and (above := _shared_above(top, section)) is not None:
            here = section.shown.strip("/")
            for user in everybody:
                level, line = user.decide(here)
                if level < READ <= user.level(above) and line > section.line:
                    yield (
                        f"{rules.file}:{line}: [{section.shown}] hides nothing: it is "
                        f"in the shared repository of /{above}, and who may read that "
                        "may read every revision in it"
                    )
                    break


def _shared_above(top: str, section: Section) -> str | None:
    """The directory above *section* with a shared repository, if there is one."""
    names = section.shown.strip("/").split("/")
    for number in range(len(names) - 1, -1, -1):
        path = "/".join(names[:number])
        where = os.path.join(top, path, ".bzr", "repository", "shared-storage")
        if os.path.lexists(where):
            return path
    return None
