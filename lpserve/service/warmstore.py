# SPDX-License-Identifier: GPL-2.0-or-later

"""Where the warm set is while no service runs: its paths in a file, and what is in
memory with systemd, where that keeps descriptors over a restart."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import logging
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..systemd import Passed
from .warmset import LONGEST_FILE

log = logging.getLogger("lpserve")

#: Names in the descriptor store begin with this. A name has the digest of version and
#: path, the number of revisions, the milliseconds that loading took, and what tells it
#: from an earlier one of that path.
PREFIX = "warm."
_name = re.compile(
    re.escape(PREFIX) + r"([0-9a-f]{32})\.([0-9]{1,15})\.([0-9]{1,15})\.[0-9a-f-]{1,40}"
)
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class DescriptorStore(Protocol):
    """Keeps descriptors over a restart; see `systemd.Notifier`."""

    def store(self, name: str, descriptor: int) -> None:
        """Keep a copy of *descriptor* as *name*."""

    def remove(self, name: str) -> None:
        """Close what is kept as *name*."""


@dataclass
class Kept:
    """What an earlier service had in memory of the repository *path*."""

    path: str
    descriptor: int
    size: int
    revisions: int
    seconds: float


class WarmStore:
    """See the module.

    :param file: the path of the file.
    :param version: of what is in memory: another one may understand it otherwise.
    :param kept: what systemd had kept; closed if it is not taken.
    """

    def __init__(
        self, file: str, version: str, store: DescriptorStore, kept: Sequence[Passed]
    ):
        self._file = file
        self._version = version
        self._store = store
        self._came_back = list(kept)
        self._names: dict[str, str] = {}
        self._serials = itertools.count(1)
        self._saved = ""
        #: Why it could not be saved when that was tried last.
        self._unsaved = ""

    # -- the file --------------------------------------------------------------

    def read(self) -> str:
        """What was saved; "" if nothing was."""
        with (
            contextlib.suppress(OSError, ValueError),
            open(self._file, encoding="utf-8") as file,
        ):
            self._saved = file.read(LONGEST_FILE)
        return self._saved

    def save(self, text: str) -> None:
        """Write down what a later service is to go on with."""
        if text == self._saved:
            return
        self._saved = text  # or not: that has been said
        # If we are killed the next service removes it.
        new = os.path.join(os.path.dirname(self._file), ".new-warm")
        try:
            with open(new, "w", opener=_private, encoding="utf-8") as file:
                file.write(text)
            os.replace(new, self._file)
            self._unsaved = ""
        except OSError as error:
            before, self._unsaved = self._unsaved, error.strerror or str(error)
            if self._unsaved != before:
                log.warning("cannot write %s: %s", self._file, self._unsaved)
            with contextlib.suppress(OSError):
                os.unlink(new)

    # -- the descriptors -------------------------------------------------------

    def keep(self, path: str, descriptor: int, revisions: int, seconds: float) -> None:
        """Have *descriptor*, of the repository *path*, outlive us."""
        self.forget(path)
        digest = self._digest(path)
        which = f"{time.time_ns():x}-{next(self._serials):x}"
        name = f"{PREFIX}{digest}.{revisions}.{seconds * 1000:.0f}.{which}"
        self._names[path] = name
        self._store.store(name, descriptor)

    def forget(self, path: str) -> None:
        """Have nothing of the repository *path* outlive us."""
        name = self._names.pop(path, None)
        if name is not None:
            self._store.remove(name)

    def name(self, path: str) -> str:
        """What the repository *path* is kept as; "" if it is not."""
        return self._names.get(path, "")

    def take_back(self, paths: Iterable[str]) -> Iterator[Kept]:
        """What came back of the repositories *paths*, once; the rest is closed.

        What is in it only workers look at, by the packs that they find.
        """
        if not self._came_back:
            return
        known = {self._digest(path): path for path in paths}
        for name, descriptor in self._came_back:
            match = _name.fullmatch(name)
            path = known.pop(match.group(1), None) if match else None
            fault = memory_fault(descriptor)
            if fault is not None:
                log.warning("warm: systemd passed %s, %s: it is not used", name, fault)
            if match is None or path is None or fault is not None:
                self._store.remove(name)
                os.close(descriptor)
                continue
            self._names[path] = name
            size = os.fstat(descriptor).st_size
            revisions, milliseconds = int(match.group(2)), int(match.group(3))
            yield Kept(path, descriptor, size, revisions, milliseconds / 1000)
        self._came_back = []

    def _digest(self, path: str) -> str:
        text = f"{self._version}\n{path}".encode("utf-8", "surrogateescape")
        return hashlib.sha256(text).hexdigest()[:32]


def memory_fault(descriptor: int) -> str | None:
    """Why *descriptor* is no file in memory of ours that nobody can change, or None."""
    found = os.fstat(descriptor)
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError:
        return "which is no file in memory"
    if not stat.S_ISREG(found.st_mode) or not found.st_size:
        return "which is empty"
    if found.st_uid != os.geteuid():
        return f"which belongs to uid {found.st_uid}"
    if seals & _SEALS != _SEALS:
        return "which can be changed"
    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
        return "which cannot be read"
    return None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
