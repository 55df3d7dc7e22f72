# SPDX-License-Identifier: GPL-2.0-or-later

"""Reads systemd's unit files (systemd.syntax(7)) and their drop-ins."""

from __future__ import annotations

import glob
import os
import shlex

#: Where units are; the first directory that has a unit counts (systemd.unit(5)).
UNIT_DIRECTORIES = (
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)


class Unit:
    """The settings of a unit.

    :ivar name: such as ``lpserve.service``.
    :ivar path: of its file.
    """

    def __init__(self, name: str, path: str):
        self.name = name
        self.path = path
        self._values: dict[tuple[str, str], list[str]] = {}

    def read(self, path: str) -> None:
        """Add the settings in a file; an empty one clears those before it.

        :raises OSError: if it cannot be read.
        """
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read()
        section = ""
        for line in text.replace("\\\n", " ").splitlines():
            line = line.strip()
            if not line or line[0] in "#;":
                continue
            if line.startswith("["):
                section = line.strip("[]")
                continue
            name, _, value = line.partition("=")
            found = self._values.setdefault((section, name.strip()), [])
            if value.strip():
                found.append(value.strip())
            else:
                found.clear()

    def all(self, section: str, name: str) -> list[str]:
        """The values of a setting, in their order."""
        return list(self._values.get((section, name), ()))

    def last(self, section: str, name: str) -> str | None:
        """The last value of a setting; None if it has none."""
        return next(reversed(self.all(section, name)), None)

    def command(self) -> list[str]:
        """The words of ``ExecStart``; [] if there is none that can be split."""
        text = self.last("Service", "ExecStart") or ""
        try:
            return shlex.split(text.lstrip("@-:+!").replace("%%", "%"))
        except ValueError:
            return []

    def environ(self) -> dict[str, str]:
        """The variables of ``Environment``."""
        found = {}
        for text in self.all("Service", "Environment"):
            try:
                words = shlex.split(text)
            except ValueError:
                continue
            for word in words:
                name, _, value = word.partition("=")
                found[name] = value
        return found


def find_unit(name: str, directories: tuple[str, ...]) -> Unit | None:
    """Read the unit *name* and its drop-ins; None if it is not installed.

    :raises OSError: if it cannot be read.
    """
    for directory in directories:
        path = os.path.join(directory, name)
        if os.path.lexists(path):
            unit = Unit(name, path)
            unit.read(path)
            drops: dict[str, str] = {}
            for each in reversed(directories):
                for drop in glob.glob(
                    os.path.join(glob.escape(each), f"{name}.d/*.conf")
                ):
                    drops[os.path.basename(drop)] = drop
            for _, drop in sorted(drops.items()):
                unit.read(drop)
            return unit
    return None
