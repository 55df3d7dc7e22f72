# SPDX-License-Identifier: GPL-2.0-or-later

"""Expands ``lpserve.directory`` for a user; parses ``lpserve.sandbox_paths``.

In ``lpserve.directory``, ``%u`` stands for USER and ``%%`` for ``%``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from .errors import ConfigurationError
from .location import HEALTH_USER


def expand(directory: str | None, user: str) -> str:
    """The directory that is served to *user*.

    :param directory: ``lpserve.directory``, an absolute path.
    :raises ConfigurationError: if *directory* is empty, or has a ``%`` that neither
        ``%`` nor ``u`` follows.
    """
    if not directory:
        raise ConfigurationError(
            "no directory to serve: give --directory or set lpserve.directory in "
            "breezy.conf"
        )
    parts = directory.split("%%")
    if any("%" in part.replace("%u", "") for part in parts):
        text = "only %u and %% may follow a %"
        raise ConfigurationError(f"{text} in {directory!r}", text)
    return "%".join(part.replace("%u", user) for part in parts)


def find(directory: str | None, user: str) -> str:
    """Like `expand`, and check that the directory exists.

    :returns: a directory; `os.devnull` for `HEALTH_USER`, who is greeted only, where
        each user has one.
    :raises ConfigurationError: as `expand`, or if it is not.
    """
    path = expand(directory, user)
    if directory and user == HEALTH_USER and not is_shared(directory):
        check(shared_part(directory))
        return os.devnull
    check(path)
    return path


def check(path: str) -> None:
    """Check that *path* is a directory.

    :raises ConfigurationError: if it is not.
    """
    if not os.path.isdir(path):
        raise ConfigurationError(
            f"there is no directory {path} to serve", "there is no directory to serve"
        )


def is_shared(directory: str) -> bool:
    """Whether *directory* is the same for all users."""
    return "%u" not in directory.replace("%%", "")


def shared_part(directory: str) -> str:
    """The part of *directory* above the first component that contains ``%u``."""
    parts = []
    for part in directory.split("/"):
        if not is_shared(part):
            break
        parts.append(part.replace("%%", "%"))
    return "/".join(parts) or "/"


def parse_sandbox_paths(entries: Iterable[str]) -> list[tuple[str, bool]]:
    """Parse ``lpserve.sandbox_paths``: pairs of a path and whether it is writable.

    :raises ConfigurationError: for a path that is not absolute.
    """
    found = []
    for entry in entries:
        path = os.path.expanduser(entry.removesuffix(":ro"))
        if not os.path.isabs(path):
            raise ConfigurationError(
                f"lpserve.sandbox_paths must be absolute paths, not {entry!r}"
            )
        found.append((path, not entry.endswith(":ro")))
    return found
