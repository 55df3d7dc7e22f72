# SPDX-License-Identifier: GPL-2.0-or-later

"""Finds unknown options and missing directories, of which the log warns."""

from __future__ import annotations

import os
from collections.abc import Iterator

import breezy
from breezy import config

from .. import OPTIONS
from .options import RENAMED
from .root import shared_part

_PREFIX = "lpserve."


def odd_options() -> list[str]:
    """A line for each ``lpserve.*`` option that is set but never read.

    :raises Exception: as Breezy does, if breezy.conf cannot be read.
    """
    return list(_odd_options())


def _odd_options() -> Iterator[str]:
    for _, section in config.GlobalStack().store.get_sections():
        for name in _ours(section):
            unknown = _unknown(name)
            if unknown:
                yield f"breezy.conf: {unknown}"
            elif section.id != "DEFAULT":
                yield f"breezy.conf: {_PREFIX}{name} is not read, not in [DEFAULT]"
    for _, section in breezy.get_global_state().cmdline_overrides.get_sections():
        yield from filter(None, map(_unknown, _ours(section)))


def _ours(section: config.Section) -> list[str]:
    names = section.iter_option_names()
    return [name[len(_PREFIX) :] for name in names if name.startswith(_PREFIX)]


def _unknown(name: str) -> str:
    """Why there is no option *name*; "" if there is."""
    if name in OPTIONS:
        return ""
    if name in RENAMED:
        return f"{_PREFIX}{name} is called {_PREFIX}{RENAMED[name]} now"
    import difflib  # seldom needed

    near = difflib.get_close_matches(name, OPTIONS, 1)
    hint = f"; did you mean {_PREFIX}{near[0]}?" if near else ""
    return f"there is no option {_PREFIX}{name}{hint}"


def odd_directory(directory: str) -> str:
    """Why ``lpserve.directory`` is not a directory; "" if it is.

    If it contains ``%u``, the part above that is checked.
    """
    path = shared_part(directory)
    if os.path.isdir(path):
        return ""
    why = "is not a directory" if os.path.exists(path) else "is not there"
    return f"lpserve.directory: {path} {why}"
