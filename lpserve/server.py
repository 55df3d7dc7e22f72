# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""The service: answers requests, and keeps a zygote alive behind them.

It is one thread around one `Loop`. It reads requests, hands them to workers,
reaps and reports; it never touches a repository and never blocks.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from .children import LET_GO, Children, End
from .doors import ControlFifo, Doors, Reply
from .errors import ZygoteError
from .generation import Generation, Launch
from .loop import Loop
from .paths import RuntimeDirectory
from .pool import Connection, Pool, Worker
from .reloads import Reloads
from .socketdoor import SocketDoor
from .system import notify
from .verbs import Verbs
from .warmer import Warmer
from .wire import FAILED, STOPPING, Request, RequestError, encode_answer, encode_error
from .zygotes import Zygotes

if TYPE_CHECKING:
    from .options import Settings

log = logging.getLogger("lpserve")

#: Seconds between looks for what nobody tells us of.
HOUSEKEEPING = 5.0


class Service:
    """The fork service.

    :param directory: prepared and locked.
    :param load_settings: reads the options afresh; raises ConfigurationError.
    :param launch: how to start a zygote.
    :param version: of lpserve.
    :param opened: called once, when the doors are open.
    :param chore: called now and then.
    """

    def __init__(
        self,
        directory: RuntimeDirectory,
        load_settings: Callable[[], Settings],
        launch: Launch,
        version: str,
        opened: Callable[[], None],
        chore: Callable[[], None],
    ):
        self._directory = directory
        self._version = version
        self._opened = opened
        self._chore = chore
        self._reloads = Reloads(load_settings)
        self._started = time.monotonic()
        self._loop = Loop(self._callback_failed)
        self._children = Children(self._loop, self._finish_if_done)
        inside = (self._loop, directory, self._arrived, log.warning)
        self._doors = Doors(
            ControlFifo(*inside),
            SocketDoor(*inside, lambda: self.settings.allowed_uids),
        )
        self._pool = Pool(
            self._loop,
            self._children,
            directory,
            self._request_fork,
            self._connection_ended,
            log.warning,
            lambda message: self._warmer.heard(message),
        )
        self._zygotes = Zygotes(
            self._loop,
            self._children,
            launch,
            self,
            lambda: not self.stopping or self._pool.waiting,
        )
        self._warmer = Warmer(
            self._loop, self._children, directory.warm, self._pool.tell_spares
        )
        self.stopping = False
        self._open = False
        self._finishing = False
        self._totals: Counter[str] = Counter()
        self._verbs = Verbs(self, self._pool, version, self._totals)
        self._why_failed = ""

    # -- life ------------------------------------------------------------------

    def run(self) -> None:
        """Serve until told to stop.

        :raises ZygoteError: if the first zygote cannot be started.
        """
        # As we were started it may be ignored, and then there is nothing to reap.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._loop.on_signal(signal.SIGTERM, self._stop)
        self._loop.on_signal(signal.SIGINT, self._stop)
        self._loop.on_signal(signal.SIGHUP, lambda: self.reload(Reply()))
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self._directory.clear_leftovers()
        self._warmer.start()
        self._zygotes.replace()
        self._loop.call_later(HOUSEKEEPING, self._keep_house)
        try:
            self._loop.run()
        finally:
            self._doors.close()
            self._loop.close()
        if not self._open and not self.stopping:
            raise ZygoteError(self._why_failed)
        log.info("stopped")

    def _open_doors(self) -> None:
        self._doors.open()
        self._open = True
        self._opened()
        notify("READY=1", f"MAINPID={os.getpid()}")

    def _callback_failed(self, error: Exception) -> None:
        self._totals["faults"] += 1
        log.error("unexpected: %s", error, exc_info=error)

    def _keep_house(self) -> None:
        self._loop.call_later(HOUSEKEEPING, self._keep_house)
        lost = self._doors.sweep()
        if lost is not None and not self.stopping:
            log.error("%s is not ours any more: stopping", lost)
            self._stop()
            return
        if not self._pool.in_flight:
            self._loop.call(self._children.reap_strangers)
        self._loop.call(self._directory.restore)
        self._loop.call(self._directory.clear_replies)
        self._loop.call(self._clear_rehearsals)
        self._loop.call(self._warmer.save)
        self._loop.call(self._chore)

    def zygote_ended(self) -> None:
        """See `zygotes.Keeper`."""
        self._clear_rehearsals()

    def _clear_rehearsals(self) -> None:
        self._directory.clear_rehearsals(self._zygotes.pids)

    def _stop(self) -> None:
        """What SIGTERM asks for; a second one does not wait."""
        self.shutdown(now=self.stopping)

    def shutdown(self, now: bool) -> None:
        """See `verbs.Life`."""
        if not self.stopping:
            self.stopping = self._pool.stopping = True
            notify("STOPPING=1")
            log.info("stopping; %d connections to finish", len(self._pool.busy))
            self._pool.resize(0)
            self._warmer.stop()
            self._loop.call_later(self.settings.shutdown_timeout, self._terminate)
        if now:
            self._terminate()
        self._finish_if_done()

    def _terminate(self) -> None:
        while self._pool.waiting:
            self._pool.waiting.popleft().refuse(STOPPING, "the service is stopping")
        self._pool.signal_all(signal.SIGTERM)
        self._loop.call_later(LET_GO, lambda: self._pool.signal_all(signal.SIGKILL))
        self._finish_if_done()

    def _finish_if_done(self) -> None:
        if not self.stopping or self._pool.busy or self._pool.waiting:
            return
        self._zygotes.retire()
        if not len(self._children):
            self._loop.stop()
        elif not self._finishing:
            # Let go, they end at once; one that is stopped or hangs does not.
            self._finishing = True
            self._loop.call_later(LET_GO, self._children.kill_all)

    @property
    def settings(self) -> Settings:
        """Those in force."""
        return self._reloads.settings

    def reload(self, reply: Reply) -> None:
        """See `verbs.Life`."""
        self._reloads.ask(self._zygotes, reply)

    def _arrived(self, request: Request | RequestError, reply: Reply) -> None:
        self._verbs.arrived(request, reply)

    # -- zygotes ---------------------------------------------------------------

    def zygote_ready(self, new: Generation, old: Generation | None) -> None:
        """See `zygotes.Keeper`."""
        if old is not None:
            self._pool.zygote_gone(old.number)
            self._pool.retire_before(new.number)
        if not self.stopping:
            self._use_settings()
        self._warmer.use(new)
        if not self._open and not self.stopping:
            self._open_doors()
        self._reloads.end(self._zygotes, encode_answer("ok"))

    def _use_settings(self) -> None:
        settings = self.settings
        self._pool.hangup_timeout = settings.hangup_timeout
        self._pool.resize(settings.spare_workers, settings.max_spare_workers)
        self._warmer.limit(
            settings.warm_repositories,
            settings.warm_memory << 20,
            settings.warm_interval,
            settings.warm_preload,
        )
        self._doors.admit()

    def zygote_gone(self, generation: Generation) -> None:
        """See `zygotes.Keeper`."""
        self._pool.zygote_gone(generation.number)
        self._warmer.use(None)

    def zygote_failed(self, why: str) -> None:
        """See `zygotes.Keeper`."""
        self._why_failed = why
        if not self._open:
            self._loop.stop()
            return
        self._reloads.end(self._zygotes, encode_error(FAILED, why))
        while self._zygotes.present is None and self._pool.waiting:
            self._pool.waiting.popleft().refuse(FAILED, f"no zygote: {why}")

    def _request_fork(
        self, serials: list[int], ends: list[socket.socket], spare: bool
    ) -> int:
        zygote = self._zygotes.present
        if zygote is None:
            raise OSError("no zygote")
        zygote.fork(serials, ends, spare, self.settings.for_worker())
        return zygote.number

    def forked(self, serial: int, pid: int) -> None:
        """See `zygotes.Keeper`."""
        (self._warmer if serial < 0 else self._pool).forked(serial, pid)

    def fork_failed(self, serial: int, why: str) -> None:
        """See `zygotes.Keeper`."""
        (self._warmer if serial < 0 else self._pool).fork_failed(serial, why)

    def _connection_ended(
        self, connection: Connection, worker: Worker, end: End
    ) -> None:
        self._totals["ended" if end.clean else "failed"] += 1
        assert worker.child is not None
        log.info(
            "worker %d for %s: %s after %.3f s",
            worker.child.pid,
            connection.user,
            end,
            time.monotonic() - connection.started,
        )

    def status(self) -> dict[str, object]:
        """What ``status`` answers; ``doc/protocol.txt`` lists the fields."""
        zygote = self._zygotes.present
        return {
            "pid": os.getpid(),
            "version": self._version,
            "uptime": round(time.monotonic() - self._started, 3),
            "runtime_dir": self._directory.path,
            "doors": self._doors.names,
            "state": "stopping" if self.stopping else "running",
            "generation": zygote.number if zygote else None,
            "zygote": zygote.pid if zygote else None,
            "modules": zygote.modules if zygote else None,
            "workers": self._pool.counts(),
            "totals": {
                name: self._totals[name]
                for name in ("requests", "spawned", "ended", "failed", "faults")
            },
            "refused": dict(self._verbs.refused),
            "descriptors": len(os.listdir("/proc/self/fd")) - 1,
            **self._warmer.status(),
        }
