# SPDX-License-Identifier: GPL-2.0-or-later

"""Which repositories are kept in memory: the most recently used ones.

This knows paths and numbers. It touches no repository and no process: `warmer` does
what it says.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from typing import Any

from ..channel import HIT

#: Seconds that a repository is put aside after its first failure, and at most.
ASIDE, ASIDE_AT_MOST = 60.0, 86400.0
#: Seconds until one that was changing is tried again.
IN_A_MOMENT = 1.0
#: Repositories that are remembered for each one that may be warm.
REMEMBERED = 4
#: Repositories that an earlier service may leave us.
MOST_RESTORED = 1000
#: Characters that `WarmSet.describe` takes: an answer has its limit.
LONGEST_STATUS = 40_000
#: Characters of a path (PATH_MAX), and of the file that outlives the service.
LONGEST_PATH, LONGEST_FILE = 4096, 1 << 20

#: Why one that is not there is put aside.
GONE = "it is not there"


@dataclass
class Entry:
    """One repository.

    :ivar path: its real path.
    :ivar used: when it was used last, by the clock.
    :ivar uses: in how many reports it was.
    :ivar hits: in how many of them it was found warm.
    :ivar hits_of_this: as `hits`, but of what was loaded last.
    :ivar wanted: it was used since it was last loaded, and was not what was loaded.
    :ivar size: bytes that are kept of it; None if nothing is.
    :ivar too_large: its last failure was that it did not fit.
    :ivar aside_until: when it may be tried again after a failure.
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
    """See the module.

    :param clock: tells the time in seconds.
    :ivar most: how many repositories may be warm.
    :ivar room: how many bytes may be kept of all of them.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.most = 0
        self.room = 0
        self._clock = clock
        self._entries: dict[str, Entry] = {}

    # -- what happens to it ----------------------------------------------------

    def used(self, path: str, outcome: str) -> Entry | None:
        """A worker used the repository *path*; None if nothing is to be kept.

        :param outcome: one of `channel.OUTCOMES`, what the worker found in memory: just
            what is there; what was there before something changed; or nothing.
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
        """These are in the set from now on, used or not; and no others."""
        wanted = dict.fromkeys(paths)
        for entry in self._entries.values():
            entry.preloaded = entry.path in wanted
        for path in wanted:
            entry = self._entry(path)
            entry.preloaded = True
            entry.wanted = entry.wanted or entry.size is None

    def resize(self, most: int, room: int) -> list[str]:
        """Change the limits; the paths of which nothing may be kept any more."""
        grown = room > self.room
        self.most, self.room = most if room else 0, room
        for entry in self._entries.values():
            if grown and entry.too_large:
                entry.aside_until, entry.failures, entry.too_large = 0.0, 0, False
        return self._make_room()

    def next_wanted(self, but: Container[str] = ()) -> Entry | None:
        """What to load next, if anything; none of *but*."""
        now = self._clock()
        for entry in self._newest()[: self.most]:
            if entry.wanted and entry.aside_until <= now and entry.path not in but:
                return entry
        return None

    def begin(self, entry: Entry) -> None:
        """It is being loaded; what is used from now on may be newer than that."""
        entry.loading = True
        entry.wanted = False

    def loaded(
        self, path: str, size: int, revisions: int, seconds: float
    ) -> tuple[bool, list[str]]:
        """It was loaded.

        :returns: whether to keep it, and the paths of what has to go for it.
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

    def failed(self, path: str, why: str) -> float:
        """It could not be loaded; the seconds until it is tried again."""
        entry = self._entries.get(path)
        if entry is None:
            return 0.0
        entry.loading = False
        return self._put_aside(entry, why)

    def mark_missing(self, path: str) -> bool:
        """It is not there any more; whether that is new.

        It is forgotten, unless it is to be there from the start: then it is looked
        for again, but later and later.
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
        """Loading it ended for a reason that is none of its own.

        :param why: what is said of it meanwhile.
        :param seconds: until it may be tried again.
        """
        entry = self._entries.get(path)
        if entry is not None:
            entry.loading = False
            entry.wanted = True
            entry.why = why
            entry.aside_until = self._clock() + seconds

    # -- what is known of it ---------------------------------------------------

    def next_retry(self) -> float | None:
        """Seconds until one that is wanted, and aside, may be tried again."""
        now = self._clock()
        waits = [
            each.aside_until - now
            for each in self._newest()[: self.most]
            if each.wanted and each.aside_until > now
        ]
        return min(waits, default=None)

    def get(self, path: str) -> Entry | None:
        """What is known of the repository *path*."""
        return self._entries.get(path)

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return sum(each.size or 0 for each in self._entries.values())

    def describe(self) -> list[dict[str, object]]:
        """The set for ``status``, the last used first; not all of a very long one."""
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
        """What `restore` reads."""
        return json.dumps([each.path for each in self._newest() if each.uses])

    def restore(self, text: str) -> None:
        """Go on with the set of a service that is gone; rubbish is nothing."""
        try:
            paths = json.loads(text)
        except (ValueError, RecursionError):
            return
        if not isinstance(paths, list):
            return
        # The newest is to be the newest again.
        for path in reversed(paths[:MOST_RESTORED]):
            if is_path(path):
                entry = self._entry(path)
                entry.used = self._clock()
                entry.uses = max(entry.uses, 1)

    # -- the inside ------------------------------------------------------------

    def _entry(self, path: str) -> Entry:
        entry = self._entries.pop(path, None)
        if entry is None:
            entry = Entry(path, self._clock())
        # In the order of use: `_newest` reads it backwards.
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
        """Let go of what is beyond the limits, the oldest first."""
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
    """Whether *path* is one that may be asked for: absolute, and not too long."""
    return (
        isinstance(path, str)
        and len(path) <= LONGEST_PATH
        and os.path.isabs(path)
        and path.isprintable()
    )
