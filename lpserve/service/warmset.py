# SPDX-License-Identifier: GPL-2.0-or-later

"""Decides which repositories are kept in memory: the most recently used ones.

This does no I/O: it knows paths and numbers, and `warmer` carries out its decisions.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from typing import Any

from ..channel import HIT

#: Seconds until a repository is tried again after its first failure. They double with
#: each failure, up to the second number.
ASIDE, ASIDE_AT_MOST = 60.0, 86400.0
#: Seconds until a repository that was changing is tried again.
IN_A_MOMENT = 1.0
#: How many repositories are remembered for each one that may be in memory.
REMEMBERED = 4
#: The most repositories that `WarmSet.restore` reads.
MOST_RESTORED = 1000
#: The most characters of `WarmSet.describe`, because clients limit answers.
LONGEST_STATUS = 40_000
#: The most characters of a path (PATH_MAX), and of the saved set.
LONGEST_PATH, LONGEST_FILE = 4096, 1 << 20

#: The reason for putting a missing repository aside.
GONE = "it is not there"


@dataclass
class Entry:
    """One repository.

    :ivar path: its real path.
    :ivar used: when it was used last, in seconds of the clock.
    :ivar preloaded: whether it is kept without being used (``warm_preload``).
    :ivar uses: how many reports of workers name it.
    :ivar hits: how many of these found it in memory, up to date.
    :ivar hits_of_this: `hits` since it was last loaded.
    :ivar wanted: whether it should be loaded (again).
    :ivar size: bytes in memory; None if it is not in memory.
    :ivar seconds: how long loading took.
    :ivar loaded: when it was loaded, in seconds of the clock.
    :ivar failures: how often in a row loading has failed.
    :ivar too_large: whether the last failure was that it did not fit.
    :ivar aside_until: when it may be tried again, in seconds of the clock.
    :ivar why: the reason of the last failure.
    """

    path: str
    used: float
    preloaded: bool = False
    uses: int = 0
    hits: int = 0
    hits_of_this: int = 0
    wanted: bool = True
    loading: bool = False
    size: int | None = None
    revisions: int = 0
    seconds: float = 0.0
    loaded: float = 0.0
    failures: int = 0
    too_large: bool = False
    aside_until: float = 0.0
    why: str = ""


class WarmSet:
    """The set of repositories that are in memory, or may come to be.

    :param clock: returns the time in seconds.
    :ivar most: how many repositories may be in memory.
    :ivar room: how many bytes they may take together.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.most = 0
        self.room = 0
        self._clock = clock
        self._entries: dict[str, Entry] = {}

    # -- events ----------------------------------------------------------------

    def used(self, path: str, outcome: str) -> Entry | None:
        """Count one use of the repository *path*.

        :param outcome: what the worker found in memory, one of `channel.OUTCOMES`.
        :returns: the entry; None if no repositories are kept.
        """
        if not self.most:
            return None
        entry = self._entry(path)
        entry.used = self._clock()
        entry.uses += 1
        if outcome == HIT:
            entry.hits += 1
            entry.hits_of_this += 1
        else:
            entry.wanted = True
        self._forget_oldest()
        return entry

    def preload(self, paths: Iterable[str]) -> None:
        """Mark *paths*, and no others, to be kept without being used."""
        wanted = dict.fromkeys(paths)
        for entry in self._entries.values():
            entry.preloaded = entry.path in wanted
        for path in wanted:
            entry = self._entry(path)
            entry.preloaded = True
            entry.wanted = entry.wanted or entry.size is None

    def resize(self, most: int, room: int) -> list[str]:
        """Change the limits; the paths that have to be dropped from memory."""
        grown = room > self.room
        self.most, self.room = most if room else 0, room
        for entry in self._entries.values():
            if grown and entry.too_large:
                entry.aside_until, entry.failures, entry.too_large = 0.0, 0, False
        return self._make_room()

    def next_wanted(self, but: Container[str] = ()) -> Entry | None:
        """The entry to load next, except those of *but*; None if there is none."""
        now = self._clock()
        for entry in self._newest()[: self.most]:
            if entry.wanted and entry.aside_until <= now and entry.path not in but:
                return entry
        return None

    def begin(self, entry: Entry) -> None:
        """Loading has begun: a later use may want the repository loaded again."""
        entry.loading = True
        entry.wanted = False

    def loaded(
        self, path: str, size: int, revisions: int, seconds: float
    ) -> tuple[bool, list[str]]:
        """Loading has succeeded.

        :param size: in bytes.
        :param seconds: that it took.
        :returns: whether to keep the result, and the paths to drop from memory.
        """
        entry = self._entries.get(path)
        if entry is None:
            return False, []
        entry.loading = False
        if size > self.room:
            mebibytes = f"{size / (1 << 20):.1f} MiB"
            self._put_aside(entry, f"{mebibytes} are more than lpserve.warm_memory")
            entry.too_large = True
            entry.size = None
            return False, []
        entry.size, entry.revisions, entry.seconds = size, revisions, seconds
        entry.loaded = self._clock()
        entry.failures, entry.why, entry.hits_of_this = 0, "", 0
        entry.too_large = False
        mark_missing = self._make_room(entry)
        return entry.size is not None, [each for each in mark_missing if each != path]

    def take_back(
        self, path: str, size: int, revisions: int, seconds: float
    ) -> tuple[bool, list[str]]:
        """It is there since an earlier service has loaded it; as `loaded`."""
        entry = self._entries.get(path)
        if entry is not None:
            self.begin(entry)
        return self.loaded(path, size, revisions, seconds)

    def failed(self, path: str, why: str) -> float:
        """Loading has failed; the seconds until it is tried again."""
        entry = self._entries.get(path)
        if entry is None:
            return 0.0
        entry.loading = False
        return self._put_aside(entry, why)

    def mark_missing(self, path: str) -> bool:
        """The repository does not exist; whether that was not known before.

        Its entry is removed, unless it is preloaded. Then it is tried again, with
        growing pauses.
        """
        entry = self._entries.get(path)
        if entry is None:
            return False
        new = entry.why != GONE
        if entry.preloaded:
            entry.loading, entry.size = False, None
            self._put_aside(entry, GONE)
        else:
            del self._entries[path]
        return new

    def postpone(self, path: str, why: str = "", seconds: float = 0.0) -> None:
        """Loading has ended for a reason that does not count as a failure.

        :param why: the reason, for ``status``.
        :param seconds: until it may be tried again.
        """
        entry = self._entries.get(path)
        if entry is not None:
            entry.loading = False
            entry.wanted = True
            entry.why = why
            entry.aside_until = self._clock() + seconds

    # -- queries ---------------------------------------------------------------

    def next_retry(self) -> float | None:
        """Seconds until the first wanted entry that is aside may be tried again."""
        now = self._clock()
        waits = [
            each.aside_until - now
            for each in self._newest()[: self.most]
            if each.wanted and each.aside_until > now
        ]
        return min(waits, default=None)

    @property
    def paths(self) -> list[str]:
        """Of all that are known, the last used last."""
        return list(self._entries)

    def get(self, path: str) -> Entry | None:
        """The entry of the repository *path*, or None."""
        return self._entries.get(path)

    @property
    def size(self) -> int:
        """The bytes in memory."""
        return sum(each.size or 0 for each in self._entries.values())

    def describe(self) -> list[dict[str, object]]:
        """The set for ``status``, the last used first; cut at `LONGEST_STATUS`."""
        now = self._clock()
        found = []
        room = LONGEST_STATUS
        for entry in self._newest():
            room -= len(json.dumps(entry.path + entry.why)) + 250
            if room < 0:
                break
            found.append(self._describe(entry, now))
        return found

    @staticmethod
    def _describe(entry: Entry, now: float) -> dict[str, object]:
        if entry.size is not None:
            state = "warm"
        elif entry.loading:
            state = "loading"
        elif entry.aside_until > now:
            state = "aside"
        else:
            state = "cold"
        found: dict[str, object] = {
            "path": entry.path,
            "state": state,
            "uses": entry.uses,
            "hits": entry.hits,
            "used": round(now - entry.used, 1) if entry.uses else None,
        }
        if entry.size is not None:
            found["bytes"] = entry.size
            found["revisions"] = entry.revisions
            found["load_seconds"] = round(entry.seconds, 3)
            found["age"] = round(now - entry.loaded, 1)
        if entry.aside_until > now:
            found["why"] = entry.why
            found["retry"] = round(entry.aside_until - now, 1)
        return found

    def dump(self) -> str:
        """The set as a text for `restore`."""
        return json.dumps([each.path for each in self._newest() if each.uses])

    def restore(self, text: str) -> None:
        """Add the repositories that `dump` has written; invalid text is ignored."""
        try:
            paths = json.loads(text)
        except (ValueError, RecursionError):
            return
        if not isinstance(paths, list):
            return
        # In reverse, so that the newest one becomes the newest again.
        for path in reversed(paths[:MOST_RESTORED]):
            if is_path(path):
                entry = self._entry(path)
                entry.used = self._clock()
                entry.uses = max(entry.uses, 1)

    # -- internals -------------------------------------------------------------

    def _entry(self, path: str) -> Entry:
        entry = self._entries.pop(path, None)
        if entry is None:
            entry = Entry(path, self._clock())
        # The dict is in the order of use; `_newest` reverses it.
        self._entries[path] = entry
        return entry

    def _newest(self) -> list[Entry]:
        newest = list(reversed(self._entries.values()))
        newest.sort(key=lambda entry: not entry.preloaded)  # stable
        return newest

    def _put_aside(self, entry: Entry, why: str) -> float:
        entry.failures += 1
        seconds = min(ASIDE * 2.0 ** min(entry.failures - 1, 30), ASIDE_AT_MOST)
        entry.aside_until = self._clock() + seconds
        entry.wanted = True
        entry.why = why
        return seconds

    def _make_room(self, newest: Entry | None = None) -> list[str]:
        """Drop entries beyond the limits from memory, the oldest first; their paths."""
        mark_missing = []
        kept = [each for each in self._newest() if each.size is not None]
        while kept and (len(kept) > self.most or self.size > self.room):
            oldest = -2 if kept[-1] is newest and len(kept) > 1 else -1
            entry = kept.pop(oldest)
            entry.size = None
            entry.wanted = False  # until it is used again
            mark_missing.append(entry.path)
        return mark_missing

    def _forget_oldest(self) -> None:
        limit = max(self.most, 1) * REMEMBERED
        for entry in list(self._entries.values()):
            if len(self._entries) <= limit:
                return
            if entry.size is None and not entry.loading and not entry.preloaded:
                del self._entries[entry.path]


def is_path(path: Any) -> bool:
    """Whether *path* is an absolute, printable path of at most `LONGEST_PATH`."""
    return (
        isinstance(path, str)
        and len(path) <= LONGEST_PATH
        and os.path.isabs(path)
        and path.isprintable()
    )
