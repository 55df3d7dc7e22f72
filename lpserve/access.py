# SPDX-License-Identifier: GPL-2.0-or-later

"""Access rules: what follows from what the file ``lpserve.access`` says.

No I/O; `accesssyntax` parses the file, and `accessfile` reads it. Paths are below the
directory that is served: "" is that directory, names are separated by single slashes
and are not encoded. The rules are about places in the file system: who asks for a path
resolves its links first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .errors import ConfigurationError

#: What somebody may do with a path.
NONE, READ, WRITE = 0, 1, 2
#: The same in words: those of a file, and those of an answer.
VALUES = {"": NONE, "r": READ, "rw": WRITE}
LEVELS = ("none", "r", "rw")

#: Directories that belong, with all that is in them, to the one that they are in.
CONTROL = (".bzr", ".git")

EVERYONE, THAT_USER = "*", "%u"
#: Stands for any other user, where a section is about each.
_ANOTHER = "%"
#: Decisions that are remembered for a user.
_MOST = 10_000


class AccessError(ConfigurationError):
    """The rules cannot be used.

    :ivar line: where they are wrong; 0 if that is not about a line.
    :ivar why: the file, the line, and what is wrong there.
    """

    def __init__(self, file: str, line: int, text: str):
        where = f"{file}:{line}: " if line else f"{file}: " if file else ""
        self.why, self.line = where + text, line
        super().__init__(
            f"nobody is let in, as the access rules cannot be used: {self.why}",
            "nobody is let in, as the server's access rules cannot be used",
        )


class Decision(NamedTuple):
    """A level, and the number of the line that says so; 0 if none does."""

    level: int
    line: int


NO_LINE = Decision(NONE, 0)


class Pattern(NamedTuple):
    """A name in a path that has ``%u`` in it: what is before it, and after it."""

    before: str
    after: str

    def match(self, name: str) -> str | None:
        """What ``%u`` is in *name*; None if it is not such a name."""
        before, after = self
        if len(name) <= len(before) + len(after):
            return None
        if not (name.startswith(before) and name.endswith(after)):
            return None
        return name[len(before) : len(name) - len(after)]

    def fill(self, user: str) -> str:
        """The name with *user* for ``%u``."""
        return self.before + user + self.after


Part = str | Pattern


class Section:
    """A path, and who may do what there.

    :ivar parts: its names.
    :ivar shown: the same as it is written.
    :ivar users, groups: by name.
    """

    __slots__ = ("everyone", "groups", "line", "parts", "shown", "that_user", "users")

    def __init__(self, parts: tuple[Part, ...], text: str, line: int):
        self.parts = parts
        self.shown = text
        self.line = line
        self.users: dict[str, Decision] = {}
        self.groups: dict[str, Decision] = {}
        self.everyone: Decision | None = None
        self.that_user: Decision | None = None

    @property
    def denies(self) -> bool:
        """Whether a line gives somebody no access."""
        rest = [each for each in (self.everyone, self.that_user) if each is not None]
        lines = (*self.users.values(), *self.groups.values(), *rest)
        return any(each.level == NONE for each in lines)

    def says(
        self, user: str, groups: Iterable[str], name: str | None
    ) -> Decision | None:
        """What it says of *user*; None if it has no line for them.

        :param name: what ``%u`` stands for in the path.
        """
        if (own := self.users.get(user)) is not None:
            return own
        if name == user and self.that_user is not None:
            return self.that_user
        if self.groups:
            found = [self.groups[group] for group in groups if group in self.groups]
            if found:
                return max(found, key=lambda each: each.level)
        return self.everyone

    def below(self, names: list[str], user: str) -> Iterator[str]:
        """Paths that it is about and that are below *names*, not the same.

        If ``%u`` can be any name, that of *user* and another one stand for all.
        """
        if len(self.parts) <= len(names):
            return
        bound: str | None = None
        for part, name in zip(self.parts, names):
            if isinstance(part, str):
                if part != name:
                    return
            elif (match := part.match(name)) is None or bound not in (None, match):
                return
            else:
                bound = match
        several = bound is None and not all(isinstance(p, str) for p in self.parts)
        for each in (user, _ANOTHER) if several else (bound or "",):
            yield "/".join(
                part if isinstance(part, str) else part.fill(each)
                for part in self.parts
            )


class Node:
    """A directory in the tree of sections."""

    __slots__ = ("children", "patterns", "section")

    def __init__(self) -> None:
        self.children: dict[str, Node] = {}
        self.patterns: dict[Pattern, Node] = {}
        self.section: Section | None = None

    def child(self, part: Part) -> Node:
        """The one of that name, which is made if need be."""
        if isinstance(part, str):
            return self.children.setdefault(part, Node())
        return self.patterns.setdefault(part, Node())


class Rules:
    """All that a file says.

    :ivar file: its path.
    :ivar sections: in the order of the file.
    :ivar groups: the names of the groups.
    """

    def __init__(self, file: str):
        self.file = file
        self.sections: list[Section] = []
        self.groups: set[str] = set()
        self.top = Node()
        #: The groups of each user.
        self.groups_of: dict[str, tuple[str, ...]] = {}
        #: The sections in which a line for a key lets somebody read.
        self.granting: dict[str, list[Section]] = {}

    def for_user(self, user: str) -> UserRules:
        """What they say of *user*."""
        return UserRules(self, user)


class UserRules:
    """What `Rules` say of one user."""

    def __init__(self, rules: Rules, user: str):
        self.user = user
        self._rules = rules
        self._groups = rules.groups_of.get(user, ())
        self._known: dict[str, Decision] = {}
        self._above: dict[str, bool] = {}

    def decide(self, path: str) -> Decision:
        """What may be done with *path*, and the line that says so."""
        path = owner(path)
        found = self._known.get(path)
        if found is None:
            if len(self._known) > _MOST:
                self._known.clear()
            found = self._known[path] = self._decide(path.split("/") if path else [])
        return found

    def _decide(self, names: list[str]) -> Decision:
        best = NO_LINE
        nodes: list[tuple[Node, str | None]] = [(self._rules.top, None)]
        for depth in range(len(names) + 1):
            for node, bound in nodes:
                if node.section is not None:
                    said = node.section.says(self.user, self._groups, bound)
                    if said is not None:
                        best = said
                        break
            if depth == len(names):
                break
            nodes = [each for node in nodes for each in _next(*node, names[depth])]
            if not nodes:
                break
        return best

    def level(self, path: str) -> int:
        """What may be done with *path*."""
        return self.decide(path).level

    def above(self, path: str) -> bool:
        """Whether the rules let the user read something below *path*."""
        found = self._above.get(path)
        if found is None:
            if len(self._above) > _MOST:
                self._above.clear()
            found = self._above[path] = self._is_above(path)
        return found

    def _is_above(self, path: str) -> bool:
        if owner(path) != path:
            return False
        names = path.split("/") if path else []
        # Most directories are in no section: a list may have thousands of them.
        nodes: list[tuple[Node, str | None]] = [(self._rules.top, None)]
        for name in names:
            nodes = [each for node in nodes for each in _next(*node, name)]
        if not any(node.children or node.patterns for node, _ in nodes):
            return False
        keys = (self.user, THAT_USER, *(f"@{group}" for group in self._groups))
        return any(
            self.level(each) >= READ
            for key in (*keys, EVERYONE)
            for section in self._rules.granting.get(key, ())
            for each in section.below(names, self.user)
        )

    def least(self, path: str) -> int:
        """The lowest level of *path* and of all that is below it."""
        level = self.level(path)
        if owner(path) == path:
            names = path.split("/") if path else []
            for section in self._rules.sections:
                for each in section.below(names, self.user):
                    level = min(level, self.level(each))
        return level


def _next(
    node: Node, bound: str | None, name: str
) -> Iterator[tuple[Node, str | None]]:
    """Where the tree of sections goes on for *name*, the plain name first."""
    child = node.children.get(name)
    if child is not None:
        yield child, bound
    for pattern, each in node.patterns.items():
        match = pattern.match(name)
        if match is not None and bound in (None, match):
            yield each, match


def owner(path: str) -> str:
    """The directory whose rules *path* has: the one that a ``.bzr`` in it is in."""
    if ".bzr" in path or ".git" in path:
        names = path.split("/")
        for number, name in enumerate(names):
            if name in CONTROL:
                return "/".join(names[:number])
    return path
