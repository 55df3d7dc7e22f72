# SPDX-License-Identifier: GPL-2.0-or-later

"""Tells whether code has changed since a process has begun."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys

from .filestamp import FileStamp, stamp_of


def code_stamp() -> str:
    """What changes whenever the code of lpserve does."""
    top = os.path.dirname(os.path.abspath(__file__))
    # Beside the package is the plug-in, which has the version.
    paths = [os.path.join(os.path.dirname(top), "__init__.py")]
    for directory, _, names in os.walk(top):
        paths += [os.path.join(directory, each) for each in names]
    digest = hashlib.sha256()
    for path in sorted(each for each in paths if each.endswith(".py")):
        with contextlib.suppress(OSError):
            found = os.stat(path)
            digest.update(f"{path} {found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()


class LoadedCode:
    """The files that the modules of this process come from, and its interpreter."""

    def __init__(self) -> None:
        found = [getattr(each, "__file__", None) for each in list(sys.modules.values())]
        paths = {sys.executable, *(path for path in found if isinstance(path, str))}
        self._stamps = {path: _stamp(path) for path in paths}

    def has_changed(self) -> bool:
        """Whether one of them is another file now, or has gone."""
        return any(_stamp(path) != stamp for path, stamp in self._stamps.items())


def _stamp(path: str) -> FileStamp | None:
    try:
        return stamp_of(os.stat(path))
    except OSError:
        return None
