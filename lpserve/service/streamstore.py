# SPDX-License-Identifier: GPL-2.0-or-later

"""The directory of kept streams: what is in it, and what is dropped.

Workers write there and read there; `lpserve.streams` does. The service prepares the
directory, knows which streams are kept and when each was used last, and unlinks. It
reads no file. What it knows is made of the directory itself, at the start and every
`RESCAN` seconds: so files that others remove or put there, and those that a process
before an upgrade has kept, are known too.

When a stream was used last is the time of its file's change, which the service sets. So
it is known after a restart. (The kernel's own time of the last access depends on how
the file system is mounted.)
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from .. import root, streamdirectory
from ..errors import os_fault
from .loop import Loop
from .streamfiles import (
    Dropped,
    Scan,
    is_key,
    is_locked,
    is_ours,
    is_temporary,
    remove_stale,
)

log = logging.getLogger("lpserve")

#: Seconds between two readings of the whole directory.
RESCAN = 300.0
#: Entries that are looked at, and files that are removed, in one turn of the loop.
LOOKS, REMOVALS = 64, 4
#: Seconds within which further uses of a stream are not written to its file.
TOUCHED = 60.0
#: What stays free on the disk: a part of it, but not more than so many bytes.
FREE_PART, FREE_BYTES = 0.05, 1 << 30


@dataclass
class Kept:
    """A stream that is kept.

    :ivar used: when it was used last, or made, in seconds since the epoch.
    :ivar uses: how often it was used, since the service knows it.
    :ivar entered, touched: when the service has learnt of it, and has last written
        `used` to its file, in seconds of `time.monotonic`.
    """

    size: int
    used: float
    uses: int = 0
    entered: float = field(default_factory=time.monotonic)
    touched: float = 0.0


class StreamStore:
    """See the module.

    :param rules: tells whether this process is the one that drops streams.
    :ivar path: the directory as it was prepared; "" if no streams are kept.
    :ivar off: why not, or "".
    :ivar kept: the streams by key, the least recently used first.
    :ivar bytes: how many they have in all.
    :ivar limit: how many they may have.
    """

    def __init__(self, loop: Loop, rules: Callable[[], bool] = lambda: True):
        self.path = self.off = self.fault = ""
        self.kept: OrderedDict[str, Kept] = OrderedDict()
        self.bytes = self.limit = 0
        self._loop = loop
        self._rules = rules
        self._scan: Scan | None = None
        self._scanned = float("-inf")
        self._trimming = False
        self._strange = False

    def prepare(self, configured: str | None, served: str | None) -> str:
        """Make the directory if there is none, and check it; `path`.

        :param configured: the value of ``lpserve.stream_cache``, or None.
        :param served: ``lpserve.directory``.
        """
        path = streamdirectory.find(configured)
        off = "" if path else "lpserve.stream_cache says so"
        if path and not root.is_shared(served or ""):
            off = "lpserve.directory is another one for each user"
        elif path:
            try:
                off = streamdirectory.place_fault(path, served)
                if not off:
                    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(path, 0o700)
                    off = streamdirectory.fault(path)
            except OSError as error:
                off = os_fault(error)
            if off and off != self.off:
                log.warning("lpserve.stream_cache: %s: no streams are kept", off)
        if off:
            path = ""
        if path != self.path:
            self._forget_all()
            self._scanned = float("-inf")
        self.path, self.off = path, off
        return path

    def use(self, limit: int) -> None:
        """Keep at most *limit* bytes from now on."""
        self.limit = limit
        self.check()

    def close(self) -> None:
        """Read no more."""
        if self._scan is not None:
            self._scan.close()
            self._scan = None

    def check(self) -> None:
        """Read the directory when it is time, and see to the disk: a chore."""
        if time.monotonic() - self._scanned >= RESCAN:
            self._begin_scan()
        self.trim()

    # -- what workers tell -------------------------------------------------------

    def room(self, sharing: int = 1, promised: int = 0) -> int:
        """How many bytes a new stream may have.

        :param sharing: how many are made at once, of which nobody knows the size.
        :param promised: how many bytes the others of them may have.
        """
        if not self.path:
            return 0
        free = self._free() - promised
        return max(0, min(self.limit, free // max(1, sharing)))

    def made(self, key: str) -> None:
        """A worker says that it has made a stream under its name."""
        self._adopt(key)
        self.trim()

    def used(self, key: str) -> None:
        """A worker says that it serves a kept stream."""
        kept = self.kept.get(key) or self._adopt(key)
        if kept is None:
            return
        kept.uses += 1
        kept.used = time.time()
        self.kept.move_to_end(key)
        now = time.monotonic()
        if now - kept.touched > TOUCHED:
            kept.touched = now
            try:
                os.utime(self._file(key), follow_symlinks=False)
            except FileNotFoundError:
                self._forget(key)
            except OSError as error:
                self._report(os_fault(error))

    def is_being_made(self, key: str, pid: int) -> bool:
        """Whether the worker *pid* holds the lock on what it makes."""
        return is_locked(self._temporary(key, pid))

    def remove_temporary(self, key: str, pid: int) -> None:
        """Remove what the worker *pid*, which has ended, was making."""
        if self.path:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary(key, pid))

    def _adopt(self, key: str) -> Kept | None:
        """Enter the stream *key* if there is one."""
        if not self.path:
            return None
        self._forget(key)
        with contextlib.suppress(OSError):
            found = os.lstat(self._file(key))
            if is_ours(found):
                kept = self.kept[key] = Kept(found.st_size, found.st_mtime)
                self.bytes += kept.size
                return kept
        return None

    # -- what is dropped -----------------------------------------------------------

    def trim(self) -> None:
        """Drop what there is no room for, the least recently used first."""
        if not self._trimming and self.path and self._rules():
            missing = max(0, -self._free())
            if missing:
                self._report(f"{self.path}: the disk is nearly full")
            # How many bytes are free is not asked again in the middle: they are freed
            # when nobody reads the file any more.
            self._trim(missing)

    def _trim(self, missing: int) -> None:
        self._trimming = False
        for _ in range(REMOVALS):
            if not self.kept or (self.bytes <= self.limit and missing <= 0):
                return
            key, kept = next(iter(self.kept.items()))
            self._forget(key)
            missing -= kept.size
            self._unlink(self._file(key))
        self._trimming = True
        self._loop.call_later(0, lambda: self._trim(missing))

    def drop_all(self, dropped: Dropped) -> None:
        """Drop all streams; *dropped* is told how many, and of how many bytes."""
        if not self.path:
            dropped(0, 0)
            return
        waiting = [dropped]
        if self._scan is not None:
            waiting += self._scan.dropped
        self._begin_scan(waiting)

    def _unlink(self, path: str) -> bool:
        try:
            os.unlink(path)
        except FileNotFoundError:
            return False
        except OSError as error:
            self._report(os_fault(error))
            return False
        return True

    def _free(self) -> int:
        """Bytes of the disk that may be used; less than 0: bytes that are missing."""
        try:
            found = os.statvfs(self.path)
        except OSError as error:
            self._report(os_fault(error))
            return 0
        all_bytes = found.f_blocks * found.f_frsize
        keep = min(int(all_bytes * FREE_PART), FREE_BYTES)
        return found.f_bavail * found.f_frsize - keep

    # -- what is there -----------------------------------------------------------

    def _begin_scan(self, dropped: list[Dropped] | None = None) -> None:
        if self._scan is not None and dropped is None:
            return
        self.close()
        self._scanned = time.monotonic()
        if not self.path:
            return
        try:
            self._scan = Scan(self.path, dropped or [])
        except OSError as error:
            self._gone(error, dropped or [])
            return
        self._loop.call_later(0, self._go_on(self._scan))

    def _go_on(self, scan: Scan) -> Callable[[], None]:
        def step() -> None:
            if self._scan is not scan:
                return  # another one has begun
            try:
                if self._look(scan):
                    self._loop.call_later(0, step)
                    return
            except OSError as error:
                self.close()
                self._gone(error, scan.dropped)
                return
            self.close()
            self._finish(scan)

        return step

    def _look(self, scan: Scan) -> bool:
        """Look at some entries; whether there may be more."""
        removals = 0
        for _ in range(LOOKS):
            entry = next(scan.entries, None)
            if entry is None:
                return False
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            ours = is_ours(found)
            if ours and is_key(entry.name):
                if not scan.dropped:
                    scan.found[entry.name] = found
                elif self._unlink(entry.path):
                    scan.count += 1
                    scan.bytes += found.st_size
                    removals += 1
                else:
                    scan.found[entry.name] = found
            elif ours and is_temporary(entry.name):
                remove_stale(entry.path)
            else:
                scan.strange += 1
            if removals >= REMOVALS:
                return True
        return True

    def _finish(self, scan: Scan) -> None:
        self.fault = ""
        for key, kept in list(self.kept.items()):
            if key not in scan.found and kept.entered < scan.began:
                self._forget(key)
        for key, found in scan.found.items():
            kept = self.kept.get(key) or Kept(0, found.st_mtime, entered=scan.began)
            self.kept[key] = kept
            self.bytes += found.st_size - kept.size
            kept.size = found.st_size
        self.kept = OrderedDict(
            sorted(self.kept.items(), key=lambda each: each[1].used)
        )
        if scan.strange and not self._strange:
            log.warning(
                "lpserve.stream_cache: %s has %d entries that are no kept streams: "
                "they stay",
                self.path,
                scan.strange,
            )
        self._strange = bool(scan.strange)
        self.trim()
        for tell in scan.dropped:
            tell(scan.count, scan.bytes)

    def _gone(self, error: OSError, dropped: list[Dropped]) -> None:
        """The directory cannot be read."""
        self._report(os_fault(error))
        self._forget_all()
        for tell in dropped:
            tell(0, 0)

    def _forget(self, key: str) -> None:
        if (kept := self.kept.pop(key, None)) is not None:
            self.bytes -= kept.size

    def _forget_all(self) -> None:
        self.close()
        self.kept.clear()
        self.bytes = 0

    def _report(self, fault: str) -> None:
        """Log *fault*, once until the directory was read well."""
        if not self.fault:
            log.error("kept streams: %s", fault)
        self.fault = fault

    def _file(self, key: str) -> str:
        return os.path.join(self.path, key)

    def _temporary(self, key: str, pid: int) -> str:
        return os.path.join(self.path, f"{key}.{pid}.tmp")
