# SPDX-License-Identifier: GPL-2.0-or-later

"""Keeps repositories in memory: has those loaded that workers use.

The service itself reads no repository. The zygote forks a loader, which writes the
revision graph of one repository to a memfd. The service passes that to the zygote,
whose later workers inherit the mapping, and to the spare workers. No connection waits
for any of this.
"""

from __future__ import annotations

import logging
import math
import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .. import channel
from . import warmset
from .children import Child, Children, ExitStatus
from .generation import Generation
from .loop import Loop, Timer
from .warmset import Entry, WarmSet, is_path
from .warmstore import WarmStore

log = logging.getLogger("lpserve")

#: Seconds that a loader may take.
LOAD_TIMEOUT = 120.0
#: Seconds until messages are sent again to a zygote whose channel was full.
SEND_AGAIN = 0.02


@dataclass
class Loader:
    """A process that loads the repository *path*."""

    serial: int
    path: str
    channel: socket.socket
    patience: Timer
    child: Child | None = None
    #: Whether its result has been handled.
    reported: bool = False
    why: str = ""


class Warmer:
    """Decides when to load, runs one loader at a time, and distributes the results.

    :param store: keeps the set while no service runs.
    :param send_to_spares: sends each spare worker a path and a descriptor, or None.
    :ivar set: the repositories that are in memory, or should be.
    :ivar edition: how often the set has changed.
    """

    def __init__(
        self,
        loop: Loop,
        children: Children,
        store: WarmStore,
        send_to_spares: Callable[[str, int | None], None],
    ):
        self.set = WarmSet()
        self.edition = 0
        self._loop = loop
        self._children = children
        self._store = store
        self._send_to_spares = send_to_spares
        self._zygote: Generation | None = None
        self._off = ""
        self._stopped = False
        self._interval = 0.0
        self._kept: dict[str, int] = {}
        self._unsent: dict[str, None] = {}
        self._serial = 0
        self._loader: Loader | None = None
        # The paths that were loaded since `_began`, each once.
        self._turn: set[str] = set()
        self._began = -math.inf
        self._timer: Timer | None = None

    # -- events ----------------------------------------------------------------

    def start(self) -> None:
        """Read the set that an earlier service saved."""
        self.set.restore(self._store.read())

    def stop(self) -> None:
        """Load nothing more, and kill the loader; does not `save`."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        if self._loader is not None and self._loader.child is not None:
            self._loader.child.signal(signal.SIGKILL)

    def go_on(self) -> None:
        """Load again after `stop`."""
        self._stopped = False
        self._consider()

    def copies(self) -> list[tuple[str, int]]:
        """What is in memory: names for `WarmStore`, and copies of descriptors.

        :raises OSError: if there is no room for them.
        """
        found = self._kept.items()
        return [(self._store.name(path), os.dup(each)) for path, each in found]

    def save(self) -> None:
        """Save the set for the next service, if it has changed."""
        self._store.save(self.set.dump())

    def limit(
        self, most: int, room: int, interval: float, preload: Sequence[str]
    ) -> None:
        """Set the limits; see the options ``warm_...``.

        :param most: how many repositories may be kept.
        :param room: how many bytes may be kept of all of them.
        :param interval: seconds between two rounds of loading.
        :param preload: paths that are loaded without being used.
        """
        self._interval = interval
        # Each repository takes a descriptor, which connections need, too.
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if most > files // 4:
            most = files // 4
            log.warning("warm: %d repositories at most, of %d open files", most, files)
        for path in self.set.resize(most, room):
            self._keep(path, None)
        for path in preload:
            if not is_path(path):
                log.warning("lpserve.warm_preload: %r is not an absolute path", path)
        # Not checked here: only a loader opens the path.
        self.set.preload(os.path.normpath(path) for path in preload if is_path(path))
        self._take_back()
        self._consider()

    def _take_back(self) -> None:
        """Have what an earlier service had in memory, as far as systemd kept it.

        It may be of before a change: then workers say so, and it is loaded again.
        """
        for each in self._store.take_back(self.set.paths):
            keep, gone = self.set.take_back(
                each.path, each.size, each.revisions, each.seconds
            )
            for path in gone:
                self._keep(path, None)
            if keep:
                self._kept[each.path] = each.descriptor
                log.info("warm: %s is still in memory", each.path)
            else:
                os.close(each.descriptor)
                self._store.forget(each.path)

    def use(self, zygote: Generation | None) -> None:
        """Use *zygote* from now on; None: there is none."""
        self._zygote = zygote
        loader = self._loader
        if loader is not None and loader.child is None:
            self.set.postpone(loader.path)
            self._finish(loader)
        if zygote is None:
            return
        if zygote.cold and zygote.cold != self._off:
            log.warning("repositories are not kept in memory: %s", zygote.cold)
        self._off = zygote.cold
        self._unsent = dict.fromkeys(self._kept)
        self._send_all()
        self._consider()

    def handle_message(self, message: dict[str, Any]) -> None:
        """Handle a ``used`` message of a worker; an invalid one is ignored."""
        path, outcome = message.get("path"), message.get("outcome")
        if not is_path(path) or outcome not in channel.OUTCOMES:
            return
        entry = self.set.used(str(path), str(outcome))
        if entry is not None and outcome == channel.HIT and entry.hits_of_this == 1:
            log.info("warm: %s was found in memory", entry.path)
        self._consider()

    # -- loading ---------------------------------------------------------------

    def _consider(self) -> None:
        """Load the next repository, if there is one and it is time."""
        if self._loader or self._zygote is None or self._off or self._stopped:
            return
        entry = self.set.next_wanted(self._turn)
        over = entry is None or len(self._turn) >= self.set.most
        if self._turn and over:
            self._turn.clear()
            entry = self.set.next_wanted(self._turn)
        if not self._turn:
            wait = self._began + self._interval - time.monotonic()
            if entry is None:
                retry = self.set.next_retry()
                if retry is None:
                    return
                wait = max(wait, retry)
            if wait > 0:
                self._consider_later(wait)
                return
            self._began = time.monotonic()
        if entry is not None:
            self._load(entry)

    def _consider_later(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._consider)

    def _load(self, entry: Entry) -> None:
        assert self._zygote is not None
        self._serial -= 1  # those of workers are positive
        try:
            ours, theirs = channel.pair()
        except OSError:
            self._consider_later(1.0)
            return
        try:
            self._zygote.load(self._serial, theirs, entry.path, self.set.room)
        except OSError:
            ours.close()
            self._consider_later(1.0)
            return
        finally:
            theirs.close()
        self.set.begin(entry)
        self._turn.add(entry.path)
        ours.setblocking(False)
        patience = self._loop.call_later(LOAD_TIMEOUT, self._overdue)
        loader = Loader(self._serial, entry.path, ours, patience)
        self._loader = loader
        self._loop.watch(ours.fileno(), lambda: self._read(loader))

    def _overdue(self) -> None:
        if self._loader is not None:
            self._loader.why = f"it took more than {LOAD_TIMEOUT:.0f} s"
            if self._loader.child is not None:
                self._loader.child.signal(signal.SIGKILL)

    def forked(self, serial: int, pid: int) -> None:
        """The zygote has forked the loader *serial* as our child *pid*."""
        if (loader := self._loader) is None or loader.serial != serial:
            return  # its channel is closed: it exits, and `reap_strangers` reaps it
        try:
            loader.child = self._children.add(pid, lambda end: self._ended(loader, end))
        except OSError as error:
            self.fork_failed(serial, f"cannot watch it: {error.strerror}")
            return
        if loader.why:
            loader.child.signal(signal.SIGKILL)  # it is overdue already

    def fork_failed(self, serial: int, why: str) -> None:
        """The zygote could not fork the loader *serial*."""
        if (loader := self._loader) is not None and loader.serial == serial:
            self._postpone(loader, f"there is no loader: {why}")
            self._finish(loader)

    def _read(self, loader: Loader) -> None:
        """Handle a message of the loader, or its end."""
        try:
            message, descriptors = channel.receive(loader.channel)
        except BlockingIOError:
            return
        except ValueError:
            message = None
        if message is None:
            self._loop.forget(loader.channel.fileno())
            loader.channel.close()  # `_ended` reports why
            return
        try:
            self._handle_loader(loader, message, descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _handle_loader(
        self, loader: Loader, message: dict[str, Any], descriptors: list[int]
    ) -> None:
        if loader.reported:
            return
        loader.reported = True
        if message["kind"] == "changing":
            self._postpone(loader, str(message.get("text")))
            return
        if message["kind"] == "gone":
            if self.set.mark_missing(loader.path):
                log.info("warm: %s is not there any more", loader.path)
            if loader.path in self._kept:
                self._keep(loader.path, None)
            return
        if message["kind"] != "loaded" or not descriptors:
            self._failed(loader, str(message.get("text", "it sent nothing")))
            return
        try:
            kept = os.dup(descriptors[0])
        except OSError as error:
            self._postpone(loader, f"it cannot be kept: {error.strerror}")
            return
        size, revisions = int(message["size"]), int(message["revisions"])
        took = float(message["seconds"])
        keep, gone = self.set.loaded(loader.path, size, revisions, took)
        for path in gone:
            log.info("warm: %s is not kept any more", path)
            self._keep(path, None)
        entry = self.set.get(loader.path)
        if not keep:
            os.close(kept)
            if loader.path in self._kept:
                self._keep(loader.path, None)
            if entry is not None:
                log.warning("warm: %s is put aside: %s", loader.path, entry.why)
        else:
            text = f"{revisions} revisions, {size / (1 << 20):.1f} MiB, {took:.2f} s"
            log.info("warm: loaded %s (%s)", loader.path, text)
            self._keep(loader.path, kept)
        self.edition += 1

    def _postpone(self, loader: Loader, why: str) -> None:
        """Try again soon, without counting it as a failure."""
        loader.reported = True
        self.set.postpone(loader.path, why, warmset.IN_A_MOMENT)
        log.info("warm: %s is not loaded now: %s", loader.path, why)

    def _failed(self, loader: Loader, why: str) -> None:
        loader.reported = True
        seconds = self.set.failed(loader.path, why)
        log.warning("warm: %s is put aside for %.0f s: %s", loader.path, seconds, why)

    def _ended(self, loader: Loader, end: ExitStatus) -> None:
        if loader.channel.fileno() >= 0 and not loader.reported:
            self._read(loader)  # the last message may be unread
        if not loader.reported and self._stopped:
            loader.reported = True
        if not loader.reported:
            self._failed(loader, loader.why or f"its loader ended with {end}")
        self._finish(loader)

    def _finish(self, loader: Loader) -> None:
        loader.patience.cancel()
        if loader.channel.fileno() >= 0:
            self._loop.forget(loader.channel.fileno())
            loader.channel.close()
        self._loader = None
        self._consider()

    # -- distribution ----------------------------------------------------------

    def _keep(self, path: str, descriptor: int | None) -> None:
        """Keep the graph of *path*, or drop it if *descriptor* is None; send it on."""
        before = self._kept.pop(path, None)
        if before is not None:
            os.close(before)
        entry = self.set.get(path)
        if descriptor is None:
            self._store.forget(path)
        else:
            self._kept[path] = descriptor
            if entry is not None:
                self._store.keep(path, descriptor, entry.revisions, entry.seconds)
        self._send(path)
        self._send_to_spares(path, descriptor)

    def _send(self, path: str) -> None:
        self._unsent[path] = None
        self._send_all()

    def _send_all(self) -> None:
        """Send the zygote what it has not received, until its channel is full."""
        for path in list(self._unsent):
            try:
                if self._zygote is not None:
                    self._zygote.keep(path, self._kept.get(path))
            except BlockingIOError:
                self._loop.call_later(SEND_AGAIN, self._send_all)
                return
            except OSError:
                pass  # it has ended; the next one receives everything
            del self._unsent[path]

    def status(self) -> dict[str, object]:
        """The fields of the answer to ``status``."""
        return {
            "warm": self.set.describe(),
            "warm_set": {
                "edition": self.edition,
                "bytes": self.set.size,
                "off": self._off,
                "loading": self._loader.path if self._loader else None,
            },
        }
