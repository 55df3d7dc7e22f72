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

import json
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
from .socketdoor import SocketDoor
from .system import notify
from .warmer import Warmer
from .wire import (
    BAD_REQUEST,
    BUSY,
    DENIED,
    FAILED,
    STOPPING,
    Request,
    RequestError,
    encode_answer,
    encode_error,
)
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
        self._load_settings = load_settings
        self._version = version
        self._opened = opened
        self._chore = chore
        self._settings = load_settings()
        self._started = time.monotonic()
        self._loop = Loop(self._callback_failed)
        self._children = Children(self._loop, self._finish_if_done)
        inside = (self._loop, directory, self._arrived, log.warning)
        self._doors = Doors(
            ControlFifo(*inside),
            SocketDoor(*inside, lambda: self._settings.allowed_uids),
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
            lambda: not self._stopping or self._pool.waiting,
        )
        self._warmer = Warmer(
            self._loop, self._children, directory.warm, self._pool.tell_spares
        )
        self._reloads: list[Reply] = []
        self._reload_again: list[Reply] = []
        self._stopping = False
        self._open = False
        self._finishing = False
        self._totals: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
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
        self._loop.on_signal(signal.SIGHUP, lambda: self._reload(Reply()))
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
        if not self._open and not self._stopping:
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
        if lost is not None and not self._stopping:
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
        self._shutdown(now=self._stopping)

    def _shutdown(self, now: bool) -> None:
        if not self._stopping:
            self._stopping = self._pool.stopping = True
            notify("STOPPING=1")
            log.info("stopping; %d connections to finish", len(self._pool.busy))
            self._pool.resize(0)
            self._warmer.stop()
            self._loop.call_later(self._settings.shutdown_timeout, self._terminate)
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
        if not self._stopping or self._pool.busy or self._pool.waiting:
            return
        self._zygotes.retire()
        if not len(self._children):
            self._loop.stop()
        elif not self._finishing:
            # Let go, they end at once; one that is stopped or hangs does not.
            self._finishing = True
            self._loop.call_later(LET_GO, self._children.kill_all)

    # -- zygotes ---------------------------------------------------------------

    def zygote_ready(self, new: Generation, old: Generation | None) -> None:
        """See `zygotes.Keeper`."""
        if old is not None:
            self._pool.zygote_gone(old.number)
            self._pool.retire_before(new.number)
        if not self._stopping:
            self._use_settings()
        self._warmer.use(new)
        if not self._open and not self._stopping:
            self._open_doors()
        self._end_reload(encode_answer("ok"))

    def _use_settings(self) -> None:
        settings = self._settings
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
        self._end_reload(encode_error(FAILED, why))
        while self._zygotes.present is None and self._pool.waiting:
            self._pool.waiting.popleft().refuse(FAILED, f"no zygote: {why}")

    def _request_fork(
        self, serials: list[int], ends: list[socket.socket], spare: bool
    ) -> int:
        zygote = self._zygotes.present
        if zygote is None:
            raise OSError("no zygote")
        zygote.fork(serials, ends, spare, self._settings.for_worker())
        return zygote.number

    def forked(self, serial: int, pid: int) -> None:
        """See `zygotes.Keeper`."""
        (self._warmer if serial < 0 else self._pool).forked(serial, pid)

    def fork_failed(self, serial: int, why: str) -> None:
        """See `zygotes.Keeper`."""
        (self._warmer if serial < 0 else self._pool).fork_failed(serial, why)

    def _reload(self, *replies: Reply) -> None:
        if self._zygotes.successor is not None:
            # It may have read what changed since; so once more after it.
            self._reload_again.extend(replies)
            return
        try:
            self._settings = self._load_settings()
        except Exception as error:
            log.error("cannot reload: %s", error)
            for reply in replies:
                reply.send(encode_error(FAILED, str(error)))
                reply.close()
            return
        log.info("reloading")
        self._reloads.extend(replies)
        self._zygotes.replace()

    def _end_reload(self, answer: bytes) -> None:
        for reply in self._reloads:
            reply.send(answer)
            reply.close()
        self._reloads, again, self._reload_again = [], self._reload_again, []
        if again:
            self._reload(*again)

    # -- requests --------------------------------------------------------------

    def _arrived(self, request: Request | RequestError, reply: Reply) -> None:
        try:
            if isinstance(request, RequestError):
                raise request
            self._totals["requests"] += 1
            getattr(self, "_do_" + request.verb)(request, reply)
        except RequestError as error:
            self._refused[error.code] += 1
            log.warning("refused: %s", error)
            reply.send(encode_error(error.code, error.text))
            reply.close()
        except Exception as error:
            reply.send(encode_error(FAILED, str(error)))
            reply.close()
            raise

    def _do_hello(self, request: Request, reply: Reply) -> None:
        reply.send(encode_answer("ok", "lpserve", self._version, f"pid={os.getpid()}"))
        reply.close()

    def _do_spawn(self, request: Request, reply: Reply) -> None:
        if self._stopping:
            raise RequestError(STOPPING, "the service is stopping")
        if not (reply.path or reply.attached):
            raise RequestError(BAD_REQUEST, "spawn needs reply=NAME")
        for name in request.env:
            if name not in self._settings.environment:
                raise RequestError(DENIED, f"{name} is not in lpserve.environment")
        limit = self._settings.max_workers
        if limit and len(self._pool.busy) + len(self._pool.waiting) >= limit:
            raise RequestError(BUSY, f"{limit} connections are open (max_workers)")
        self._totals["spawned"] += 1
        connection = Connection(request.words[0], request.env, reply)
        self._pool.submit(connection, self._settings.connect_timeout)

    def _do_status(self, request: Request, reply: Reply) -> None:
        reply.send(encode_answer("ok", json.dumps(self.status())))
        reply.close()

    def _do_reload(self, request: Request, reply: Reply) -> None:
        if self._stopping:
            raise RequestError(STOPPING, "the service is stopping")
        self._reload(reply)

    def _do_shutdown(self, request: Request, reply: Reply) -> None:
        reply.send(encode_answer("ok"))
        reply.close()
        self._shutdown(now=request.words == ("now",))

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
            "state": "stopping" if self._stopping else "running",
            "generation": zygote.number if zygote else None,
            "zygote": zygote.pid if zygote else None,
            "modules": zygote.modules if zygote else None,
            "workers": self._pool.counts(),
            "totals": {
                name: self._totals[name]
                for name in ("requests", "spawned", "ended", "failed", "faults")
            },
            "refused": dict(self._refused),
            "descriptors": len(os.listdir("/proc/self/fd")) - 1,
            **self._warmer.status(),
        }
