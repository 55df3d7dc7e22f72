# SPDX-License-Identifier: GPL-2.0-or-later

"""Whose the plug-ins are that Breezy has loaded."""

from __future__ import annotations

import contextlib
import functools
import os

import breezy
from breezy import plugin

#: Those of Breezy 3.3; an installation need not list its files (Debian's).
_KNOWN = frozenset(
    (
        *("bash_completion", "changelog_merge", "commitfromnews", "cvs", "darcs"),
        *("email", "fastimport", "flake8", "fossil", "github", "gitlab", "hg"),
        *("launchpad", "mtn", "netrc_credential_store", "news_merge", "po_merge"),
        *("propose", "pypi", "quilt", "repodebug", "rewrite", "stats", "svn"),
        *("upload", "weave_fmt", "webdav", "zsh_completion"),
    )
)
#: The name under which this one was loaded.
_OURS = __name__.split(".")[2]


def is_bundled(name: str) -> bool:
    """Whether a plug-in of that name comes with Breezy."""
    return name in _KNOWN or name in _listed()


@functools.lru_cache(maxsize=1)
def _listed() -> frozenset[str]:
    """Those that the list of Breezy's files has: none where there is none."""
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
    """The names of those that are loaded and neither Breezy's nor this one."""
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
    """Where those that are loaded are, or may be."""
    found = [each.path() for each in plugin.plugins().values()]
    return [*breezy.plugins.__path__, *map(os.path.abspath, found)]
