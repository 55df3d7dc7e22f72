# SPDX-License-Identifier: GPL-2.0-or-later

"""The syntax of access rules: the bytes of a file to `access.Rules`. No I/O.

It is the INI format of bzr_access, but strict: what might be meant in two ways is an
error, since nobody notices a rule that is not what it seems.
"""

from __future__ import annotations

import codecs
import re

from .access import (
    CONTROL,
    EVERYONE,
    READ,
    THAT_USER,
    VALUES,
    AccessError,
    Decision,
    Part,
    Pattern,
    Rules,
    Section,
)
from .wire import is_user

_section = re.compile(r"\[(.*?)\]\s*(?:[#;].*)?", re.DOTALL)
_comment = re.compile(r"(?:^|\s)[#;].*", re.DOTALL)


def parse(content: bytes, file: str) -> Rules:
    """The rules in the bytes of a file.

    :param file: its path, for errors.
    :raises AccessError: for the first thing that is wrong.
    """
    return _Parser(file).parse(content)


class _Parser:
    def __init__(self, file: str):
        self._file = file
        self._rules = Rules(file)
        self._members: dict[str, list[str]] = {}
        # What was there already, and in which line.
        self._lines: dict[object, int] = {}
        self._used: list[tuple[str, int]] = []
        self._section: Section | None = None
        self._in_groups = False
        self._line = 0

    def parse(self, content: bytes) -> Rules:
        # The codec "utf-8-sig" is a module that each worker would import.
        content = content.removeprefix(codecs.BOM_UTF8)
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            where = content.count(b"\n", 0, error.start) + 1
            raise AccessError(self._file, where, "not UTF-8") from None
        for number, each in enumerate(text.split("\n"), 1):
            self._line, line = number, each.strip()
            if line and line[0] not in "#;":
                self._take(line)
        self._line = 0
        if not self._rules.sections:
            raise self._wrong("there is no section with rules in it")
        for group, line_number in self._used:
            if group not in self._members:
                self._line = line_number
                raise self._wrong(f"[groups] has no group {group!r}")
        groups_of: dict[str, list[str]] = {}
        for group, members in self._members.items():
            for user in members:
                groups_of.setdefault(user, []).append(group)
        self._rules.groups = set(self._members)
        self._rules.groups_of = {user: tuple(all) for user, all in groups_of.items()}
        return self._rules

    def _wrong(self, text: str) -> AccessError:
        return AccessError(self._file, self._line, text)

    def _once(self, key: object, what: str) -> None:
        if key in self._lines:
            raise self._wrong(f"{what} is in line {self._lines[key]} already")
        self._lines[key] = self._line

    def _take(self, line: str) -> None:
        if "\0" in line:
            raise self._wrong("a NUL byte")
        if line.startswith("["):
            match = _section.fullmatch(line)
            if match is None:
                raise self._wrong("a section begins with [ and ends with ]")
            self._begin(match[1])
            return
        key, equals, value = line.partition("=")
        key, value = key.strip(), _comment.sub("", value).strip()
        if not equals:
            raise self._wrong("neither a section nor NAME = VALUE")
        if self._in_groups:
            self._add_group(key, value)
        elif self._section is None:
            raise self._wrong("a rule before the first section")
        else:
            self._add_rule(self._section, key, value)

    def _begin(self, text: str) -> None:
        self._section, self._in_groups = None, text == "groups"
        if self._in_groups:
            self._once("groups", "[groups]")
            return
        if not text.startswith("/") or text != text.strip():
            raise self._wrong(
                f"[{text}] is neither [groups] nor a path that begins with a slash"
            )
        names = [name for name in text.split("/") if name]
        for name in names:
            if name in (".", ".."):
                raise self._wrong(f"{name!r} in a path")
            if name in CONTROL:
                raise self._wrong(f"{name} belongs to the directory that it is in")
        parts = tuple(self._part(name) for name in names)
        shown = "/" + "/".join(names)
        self._once(("section", shown), f"[{shown}]")
        self._section = Section(parts, shown, self._line)
        self._rules.sections.append(self._section)
        node = self._rules.top
        for part in parts:
            node = node.child(part)
        node.section = self._section

    def _part(self, name: str) -> Part:
        if "%" not in name:
            return name
        pieces = re.split("(%u|%%)", name)
        if any("%" in piece for piece in pieces[::2]):
            raise self._wrong("only %u and %% may follow a %; paths are not encoded")
        if "%u" not in pieces:
            return name.replace("%%", "%")
        if pieces.count("%u") > 1:
            raise self._wrong("%u twice in one name")
        where = pieces.index("%u")
        before, after = "".join(pieces[:where]), "".join(pieces[where + 1 :])
        return Pattern(before.replace("%%", "%"), after.replace("%%", "%"))

    def _add_group(self, name: str, value: str) -> None:
        if not is_user(name):
            raise self._wrong(f"{name!r} cannot be the name of a group")
        self._once(("group", name), f"the group {name!r}")
        members = value.replace(",", " ").split()
        for user in members:
            if not is_user(user):
                raise self._wrong(f"{user!r} cannot be the name of a user")
        self._members[name] = members

    def _add_rule(self, section: Section, key: str, value: str) -> None:
        level = VALUES.get(value)
        if level is None:
            raise self._wrong(f"{value!r} is neither rw, nor r, nor nothing")
        self._once((section.line, key), repr(key))
        decision = Decision(level, self._line)
        if key == EVERYONE:
            section.everyone = decision
        elif key == THAT_USER:
            if all(isinstance(part, str) for part in section.parts):
                raise self._wrong("%u is somebody only in a section with %u")
            section.that_user = decision
        elif key.startswith("@") and is_user(key[1:]):
            section.groups[key[1:]] = decision
            self._used.append((key[1:], self._line))
        elif is_user(key):
            section.users[key] = decision
        else:
            raise self._wrong(f"{key!r} is neither a user, nor @GROUP, nor *")
        if level >= READ:
            self._rules.granting.setdefault(key, []).append(section)
