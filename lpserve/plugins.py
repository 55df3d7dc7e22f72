# SPDX-License-Identifier: GPL-2.0-or-later

"""Tells which plug-ins come with Breezy, and where plug-ins are."""

from __future__ import annotations

import contextlib
import functools
import os

import breezy
from breezy import plugin

#: The plug-ins of Breezy 3.3, because Debian's package does not list its files.
_KNOWN = frozenset(
    (
        *("bash_completion", "changelog_merge", "commitfromnews", "cvs", "darcs"),
        *("email", "fastimport", "flake8", "fossil", "github", "gitlab", "hg"),
        *("launchpad", "mtn", "netrc_credential_store", "news_merge", "po_merge"),
        *("propose", "pypi", "quilt", "repodebug", "rewrite", "stats", "svn"),
        *("upload", "weave_fmt", "webdav", "zsh_completion"),
    )
)
#: The name under which this plug-in was loaded.
_OURS = __name__.split(".")[2]


def is_bundled(name: str) -> bool:
    """Whether a plug-in called *name* comes with Breezy."""
    return name in _KNOWN or name in _listed()


@functools.lru_cache(maxsize=1)
def _listed() -> frozenset[str]:
    """The plug-ins in the list of Breezy's files; empty if there is no such list."""
    from importlib import metadata  # a megabyte in each zygote, seldom needed

    names: set[str] = set()
    with contextlib.suppress(metadata.PackageNotFoundError):
        names.update(
            file.parts[2]
            for file in metadata.files("breezy") or ()
            if file.parts[:2] == ("breezy", "plugins") and len(file.parts) > 3
        )
    return frozenset(names)


def foreign() -> list[str]:
    """The names of the loaded plug-ins that are neither Breezy's nor this one."""
    place = os.path.join(os.path.dirname(breezy.__file__), "plugins")
    return sorted(
        name
        for name, found in plugin.plugins().items()
        if name != _OURS
        and not (
            is_bundled(name) and os.path.dirname(os.path.abspath(found.path())) == place
        )
    )


def directories() -> list[str]:
    """The directories of plug-ins, and the paths of those that are loaded."""
    found = [each.path() for each in plugin.plugins().values()]
    return [*breezy.plugins.__path__, *map(os.path.abspath, found)]
