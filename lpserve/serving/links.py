# SPDX-License-Identifier: GPL-2.0-or-later

"""Finds links that must stay where they are."""

from __future__ import annotations

import os
from collections.abc import Iterator


def lead_elsewhere(top: str) -> bool:
    """Whether a relative link at or below *top* leads elsewhere from another place.

    Clients cannot make links. The administrator has made each for the place where it
    is; from another it may lead out of the served directory.
    """
    return any(_leaves(link, top) for link in _links(top))


def _links(top: str) -> Iterator[str]:
    if os.path.islink(top):
        yield top
        return
    for directory, below, names in os.walk(top):
        for name in (*below, *names):
            if os.path.islink(path := os.path.join(directory, name)):
                yield path


def _leaves(link: str, top: str) -> bool:
    target = os.readlink(link)
    if target.startswith("/"):
        return False
    # Each ".." counts, also one that is taken back: what is on its way may be a link.
    depth = link[len(top) :].count("/") - 1
    return link == top or target.split("/").count("..") > depth
