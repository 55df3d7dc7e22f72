# SPDX-License-Identifier: GPL-2.0-or-later

"""Finds the directory of kept streams, and what is wrong with it."""

from __future__ import annotations

import itertools
import os
import re
import stat
from collections.abc import Mapping

from .root import shared_part

#: The value of ``lpserve.stream_cache`` with which there is none.
OFF = "off"
#: The name of a kept stream, or of one that is being made.
NAME = re.compile(r"[0-9a-f]{64}(\.[0-9]+\.tmp)?")
#: At how many entries of the directory is looked.
_LOOK_AT = 1000


def find(configured: str | None, environ: Mapping[str, str] | None = None) -> str:
    """The absolute path of the directory; "" if no streams are to be kept.

    :param configured: the value of ``lpserve.stream_cache``, or None.
    """
    environ = os.environ if environ is None else environ
    if configured == OFF:
        return ""
    if configured:
        return os.path.abspath(configured)
    # systemd gives a colon-separated list (systemd.exec(5)).
    base = environ.get("CACHE_DIRECTORY", "").split(":")[0]
    if not base:
        cache = environ.get("XDG_CACHE_HOME", "")
        if not os.path.isabs(cache):
            cache = os.path.expanduser("~/.cache")
        base = os.path.join(cache, "lpserve")
    return os.path.abspath(os.path.join(base, "streams"))


def place_fault(path: str, directory: str | None) -> str:
    """Why streams cannot be kept at *path*, wherever that leads; "" if they can.

    :param directory: ``lpserve.directory``, where clients may write.
    """
    served = os.path.realpath(shared_part(directory or "/"))
    if os.path.commonpath([served, os.path.realpath(path)]) == served:
        return f"{path} is inside {served}, which is served"
    return ""


def fault(path: str) -> str:
    """What is wrong with *path*, which is there; "" if only we use it, and for this.

    Workers may create and remove files there: a home would not do.

    :raises OSError: if it cannot be looked at.
    """
    found = os.lstat(path)
    if stat.S_ISLNK(found.st_mode):
        return f"{path} is a symbolic link"
    if not stat.S_ISDIR(found.st_mode):
        return f"{path} is no directory"
    if found.st_uid != os.geteuid():
        return f"{path} belongs to uid {found.st_uid}"
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        return f"{path} is open to others (mode {mode:04o})"
    with os.scandir(path) as entries:
        for entry in itertools.islice(entries, _LOOK_AT):
            if not NAME.fullmatch(entry.name):
                return f"{path} has other files, such as {entry.name!r}"
    return ""
