# SPDX-License-Identifier: GPL-2.0-or-later

"""What access rules let the user of a connection do with the files of its root.

`containment.Containment.admit` asks here about each path of each operation. The rules
are about places in the file system, so links are resolved first, each time anew in
each request: a link to somewhere inside has the rules of that place, one to somewhere
outside those of the place where it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from stat import S_ISLNK
from typing import NamedTuple

from ..access import CONTROL, NONE, READ, WRITE, Rules, UserRules, owner

#: What an operation does with a path: looks whether it exists, or lists the directory;
#: reads the file; changes it or its entry in a directory; changes what is below it too.
LOOK, GET, PUT, MOVE = "look", "read", "write", "move"
#: What an answer is to be: that of a path that is not there, or that cannot be changed.
HIDDEN, FIXED = "hidden", "fixed"

#: Places that are remembered.
_MOST = 10_000
#: In ``.bzr``, what a change of is a change of a branch.
_BRANCHES = ("branch", "branches", "branch-list")


class _Place(NamedTuple):
    """Where a path leads to.

    :ivar path: which rules it has, as a path below the root; in a ``.bzr`` that of the
        last directory in it that a link led to, or of the ``.bzr``.
    :ivar level: what may be done there.
    :ivar control: it is in a ``.bzr`` or ``.git``, or is one.
    :ivar link: its last name is a link.
    :ivar outside: its real path, if that is not below the root.
    :ivar hidden: nothing there and below it is to be seen.
    """

    path: str
    level: int
    control: bool = False
    link: bool = False
    outside: str | None = None
    hidden: bool = False


class Permits:
    """What a user may do below a root.

    :param root: the directory that is served, without links or with.
    """

    def __init__(self, rules: UserRules, root: str):
        self._rules = rules
        self._base = root.rstrip("/") + "/"
        self._root = root
        #: The same without links, once there is a link to compare it with.
        self._real: str | None = None
        self._top = self._place("")
        #: By a path without links: the same in all requests, as the rules are.
        self._known: dict[str, _Place] = {}
        #: By a path of the client, for this request.
        self._places: dict[str, _Place] = {}

    def begin_request(self) -> None:
        """What links led to may have changed."""
        self._places.clear()

    # -- where paths lead to ---------------------------------------------------

    def _place(
        self, path: str, link: bool = False, outside: str | None = None
    ) -> _Place:
        level = self._rules.level(path)
        control = owner(path) != path
        hidden = level == NONE and not self._rules.above(path)
        return _Place(path, level, control, link, outside, hidden)

    def _find(self, path: str) -> _Place:
        """Where *path*, decoded and below the root, leads to."""
        found = self._places.get(path)
        if found is not None:
            return found
        if not path:
            return self._top
        parent, _, name = path.rpartition("/")
        above = self._places.get(parent) if parent else self._top
        if above is None:
            # Not by recursion: a path may have two thousand names.
            above, at = self._top, ""
            for each in parent.split("/"):
                at = f"{at}/{each}" if at else each
                above = self._places.get(at) or self._step(above, at, each)
        return self._step(above, path, name)

    def _step(self, above: _Place, path: str, name: str) -> _Place:
        """The place of *path*, whose last name is *name*; *above* is the one before."""
        if above.hidden:
            # Not looked at: it might take a time that tells something.
            found = above
        else:
            try:
                link = S_ISLNK(os.lstat(self._base + path).st_mode)
            except (OSError, ValueError):
                link = False
            if not link and above.outside is None:
                found = self._enter(above, name)
            else:
                found = self._follow(above, path, name, link)
        if len(self._places) > _MOST:
            self._places.clear()
        self._places[path] = found
        return found

    def _enter(self, above: _Place, name: str) -> _Place:
        if above.control:
            return above
        path = f"{above.path}/{name}" if above.path else name
        if name in CONTROL:
            return _Place(path, above.level, True, hidden=above.level == NONE)
        found = self._known.get(path)
        if found is None:
            if len(self._known) > _MOST:
                self._known.clear()
            found = self._known[path] = self._place(path)
        return found

    def _follow(self, above: _Place, path: str, name: str, link: bool) -> _Place:
        """The place of a link, or of what is behind one that leads outside."""
        if self._real is None:
            self._real = os.path.realpath(self._root).rstrip("/")
        if link:
            real = os.path.realpath(self._base + path)
        else:
            real = f"{above.outside}/{name}"
        if real == self._real:
            return self._place("", link)
        if real.startswith(self._real + "/"):
            return self._place(real[len(self._real) + 1 :], link)
        place = f"{above.path}/{name}" if above.path else name
        return self._place(place, link, real)

    # -- what may be done there ------------------------------------------------

    def refuse(self, path: str, access: str) -> str | None:
        """Why something must not be done, `HIDDEN` or `FIXED`; None if it may be.

        :param access: what: `LOOK`...
        """
        if access is LOOK:
            return None if self.look(path) else HIDDEN
        if access is GET:
            return None if self._find(path).level >= READ else HIDDEN
        why = self._why_not(path, access is MOVE)
        if why is None:
            # It may be what other paths lead through.
            self._places.clear()
        return why

    def look(self, path: str) -> bool:
        """Whether it may be known that *path* is there.

        Of what is above something readable that it is a directory may be.
        """
        place = self._find(path)
        if place.level >= READ:
            return True
        return not place.hidden and os.path.isdir(self._base + path)

    def shown(self, path: str, entries: Iterable[os.DirEntry[str]]) -> list[str]:
        """The names of the *entries* of a directory that may be known."""
        place = self._find(path)
        free = place.control and place.level >= READ and place.outside is None
        start = f"{path}/" if path else ""
        return [
            each.name
            for each in entries
            if (free and not each.is_symlink()) or self.look(start + each.name)
        ]

    def is_fixed(self, path: str) -> bool:
        """Whether *path* must not be changed."""
        return self._why_not(path, False) is not None

    def _why_not(self, path: str, move: bool) -> str | None:
        place = self._find(path)
        if place.level == NONE and not (not place.hidden and self.look(path)):
            return self._why_nothing(path)
        places = [place]
        if place.link:
            parent, _, name = path.rpartition("/")
            places.append(self._enter(self._find(parent), name))
        for each in places:
            level = self._rules.least(each.path) if move else each.level
            if level < WRITE or not self._may_write_branch(each, path, move):
                return FIXED
        if move and not place.control and not self._may_move(path):
            return FIXED
        return None

    def _why_nothing(self, path: str) -> str:
        """What is said of *path*, which must not be known: as if it were not there."""
        while path:
            path = path.rpartition("/")[0]
            if (level := self._find(path).level) >= READ:
                return HIDDEN if level >= WRITE else FIXED
        return HIDDEN

    def _may_move(self, path: str) -> bool:
        """Whether *path* is no directory, or what is shared above it may be written.

        Elsewhere a branch in it would be without the repository that guards it.
        """
        if not path or not os.path.isdir(self._base + path):
            return True
        return self._may_write_repository(path.rpartition("/")[0], "/shared-storage")

    def _may_write_branch(self, place: _Place, path: str, move: bool) -> bool:
        """Whether *path* is no part of a branch, or its repository may be written too.

        The revisions of a branch without a repository of its own are in the next
        shared one above it.

        :param move: it may be the whole ``.bzr``, with a branch in it.
        """
        if not place.control:
            return True
        at = owner(place.path)
        control, _, name = place.path[len(at) :].strip("/").partition("/")
        if not name and "/.bzr/" in f"/{path}":
            name = f"/{path}".partition("/.bzr/")[2]
        # If a link led into it, what it is is not known: it might be a branch.
        known = name or path.endswith(".bzr")
        part = name.split("/")[0]
        if control != ".bzr":
            return True
        if known and part not in _BRANCHES and not (move and not part):
            return True
        return self._may_write_repository(at, "")

    def _may_write_repository(self, at: str, sign: str) -> bool:
        """Whether the next repository at or above *at* may be written, if there is one.

        :param sign: what shows that the one in *at* counts: below its directory.
        """
        while True:
            repository = f"{at}/.bzr/repository" if at else ".bzr/repository"
            if os.path.lexists(self._base + repository + sign):
                return self._find(repository).level >= WRITE
            if not at:
                return True
            at, sign = at.rpartition("/")[0], "/shared-storage"


def practise(rules: Rules, root: str) -> None:
    """Ask *rules* of a path, as a connection does."""
    asked = Permits(rules.for_user("spare"), root)
    asked.begin_request()
    asked.refuse("practice/.bzr/branch-format", GET)
