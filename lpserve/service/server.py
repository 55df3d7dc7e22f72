# SPDX-License-Identifier: GPL-2.0-or-later

"""Connects the parts of the service: doors, pool of workers, zygotes, warm set.

The service is one thread around one `Loop`. It reads requests, hands connections to
workers, reaps them and reports. It never opens a repository and never blocks.
"""

from __future__ import annotations

import functools
import logging
import signal
import socket
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..channel import VERSION
from ..errors import (
    LpserveError,
    NotOursAnyMore,
    RuntimeDirectoryError,
    ZygoteError,
    os_fault,
)
from ..logs import LogFile
from ..paths import RuntimeDirectory
from ..system import stopping_signals
from ..systemd import Notifier
from ..wire import FAILED, Request, RequestError
from . import oomscore
from .accesswatch import AccessWatch
from .accounts import Accounts
from .accountverbs import AccountVerbs
from .activation import Activation
from .admission import Admission
from .agent import Agent
from .applying import apply, apply_to_warmer
from .board import Board
from .children import Children
from .door import Doors
from .doors import ControlFifo, Reply
from .drain import Drain
from .ending import Ending
from .generation import Generation, LaunchSpec
from .housekeeping import HOUSEKEEPING, Housekeeping
from .loop import Loop
from .pool import Connection, Pool
from .reloads import Reloads
from .shortage import Shortages
from .shutdown import Shutdown
from .socketdoor import SocketDoor
from .status import Status
from .streams import Streams
from .stuck import kill_orphans
from .upgrades import Origin, Upgrades
from .verbs import Verbs
from .warmer import Warmer
from .warmstore import WarmStore
from .workerreports import WorkerReports
from .zygotes import Zygotes

if TYPE_CHECKING:
    from ..settings import Settings

log = logging.getLogger("lpserve")


class Service:
    """The fork service.

    :param directory: the runtime directory, prepared and locked.
    :param load_settings: reads the options afresh; raises ConfigurationError.
    :param launch: how to start a zygote.
    :param origin: how this process became the service.
    :param opened: called once, when the doors are open.
    :param log_file: the file behind standard error.
    :param passed: what systemd has passed to us.
    """

    def __init__(
        self,
        directory: RuntimeDirectory,
        load_settings: Callable[[], Settings],
        launch: LaunchSpec,
        origin: Origin,
        opened: Callable[[], None],
        log_file: LogFile,
        passed: Activation,
    ):
        self._directory = directory
        self._opened = opened
        self._log_file = log_file
        self._reloads = Reloads(
            load_settings, lambda: self._systemd.reloading(), self._tell_ready
        )
        self._loop = Loop(self._callback_failed)
        self._systemd = Notifier(self._loop.call_later)
        for name in passed.unknown:
            self._systemd.remove(name)
        self._children = Children(self._loop, lambda: self._ending.finish_if_done())
        self._board = Board()
        self._accounts = Accounts(self._board)
        inside = (self._loop, directory, self._arrived, log.warning)
        fifo = ControlFifo(*inside, passed.control, passed.lasting)
        socket_door = SocketDoor(
            *(*inside, lambda: self.settings.allowed_uids),
            *(passed.socket, passed.lasting),
        )
        self._doors = Doors(fifo, socket_door)
        self._pool = Pool(
            *(self._loop, self._children, directory, self._request_fork),
            lambda *of: self._reports.ended(*of),
            log.warning,
            lambda *of: self._reports.handle_message(*of),
            self._board.release,
            self._accounts.handed_over,
        )
        self._streams = Streams(self._loop, lambda: not self.handed_over)
        wanted = self._streams.for_worker
        self._zygotes = Zygotes(
            *(self._loop, self._children),
            lambda: launch.using(wanted(self.settings), self._board.descriptor),
            *(self, lambda: not self.stopping or self._pool.waiting),
            careful=origin.takeover is not None,
        )
        self._warmer = Warmer(
            self._loop,
            self._children,
            WarmStore(directory.warm, str(VERSION), self._systemd, passed.kept),
            self._pool.send_to_spares,
        )
        self._access = AccessWatch(self._pool.renew_spares)
        self._open = False
        self._totals: Counter[str] = Counter()
        self._shortages = Shortages()
        refused: Counter[str] = Counter()
        self._admission = Admission(self._loop, self._start_connection, refused)
        self._drain = Drain(self._loop, directory.path, self._admission.drained)
        chores = [self._drain.read, self._warmer.save, log_file.roll_over]
        chores += [self._access.check, self._streams.store.check]
        self._house = Housekeeping(
            *(directory, self._doors, self._children, self._pool, self._zygotes),
            self._loop.call,
            lambda: self.settings,
            chores,
        )
        self._reports = WorkerReports(
            *(self._accounts, self._access, self._warmer, self._streams, self._totals)
        )
        self._ending = Shutdown(
            *(self._loop, self._children, self._doors, self._pool, self._admission),
            self._zygotes,
            self._begin_to_stop,
            lambda: self.settings.shutdown_timeout,
            lambda: bool(self._upgrades.predecessors),
        )
        self._agent = Agent(self._loop, lambda: self._status.health(self.stopping))
        self._upgrades = Upgrades(
            *(self._loop, origin, socket_door, self._doors, self._agent, self._systemd),
            *(self._accounts, self._admission, self._pool, self._warmer),
            *(self._ending, self._open_doors, self._fail),
            *(self._reloads.end_upgrade, self._totals),
        )
        self._reports.upgrades = self._upgrades
        self._upgrades.streams = self._streams
        self._verbs = Verbs(
            *(self, self._admission, self._drain, self._access),
            *(origin.version, self._totals, refused),
        )
        ending = Ending(self._loop, self._children, self._pool, self._admission)
        self._verbs.others = AccountVerbs(
            *(self._accounts, ending, self._pool, self._zygotes, self._reloads),
            *(self._totals, refused, self._upgrades, self._streams),
        ).by_verb
        self._status = Status(
            *(origin.version, directory.path, self._doors, self._pool),
            *(self._admission, self._drain, self._zygotes, self._warmer),
            *(self._house, self._access, self._totals, refused),
            *(self._accounts.access_log, self._upgrades, self._streams),
        )
        self._fault: LpserveError | None = None

    # -- life ------------------------------------------------------------------

    def run(self) -> None:
        """Serve until a signal or a request stops the service.

        :raises ZygoteError: if the first zygote cannot be started.
        :raises RuntimeDirectoryError: if the doors cannot be created.
        :raises NotOursAnyMore: if a door or the runtime directory was removed or
            replaced later.
        """
        # If it is ignored, as it may be at the start, the kernel reaps children.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number in (*stopping_signals(), signal.SIGHUP, signal.SIGUSR1):
            self._loop.on_signal(number, functools.partial(self._signalled, number))
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if not self._upgrades.waits_for_doors:
            self._directory.clear_leftovers(self._doors.lasting)
            kill_orphans()
        self._drain.read()
        self._warmer.start()
        self._zygotes.replace()
        self._loop.call_later(HOUSEKEEPING, self._run_housekeeping)
        self._systemd.watch_us()
        try:
            self._loop.run()
        finally:
            self._doors.close()
            self._upgrades.close()
            self._agent.close()
            self._streams.store.close()
            self._systemd.close()
            self._loop.close()
            self._accounts.close()
            self._board.close()
        if self._fault is not None:
            raise self._fault
        log.info("finished" if self.handed_over else "stopped")

    def _signalled(self, number: signal.Signals) -> None:
        if self.handed_over and self._upgrades.pass_on(number):
            return
        if number == signal.SIGHUP:
            self.reload(Reply(), number.name)
        elif number == signal.SIGUSR1:
            self.reopen(number.name)
        else:  # the second one ends running connections
            self.shutdown(self.stopping, number.name)

    def _open_doors(self) -> None:
        if self._upgrades.waits_for_doors:
            self._upgrades.ready()  # they are opened when it has left them
            return
        try:
            self._doors.open()
        except OSError as error:
            self._fault = RuntimeDirectoryError(f"cannot listen: {os_fault(error)}")
            self._ending.stop(now=True)
            return
        self._open = True
        self._opened()
        self._tell_ready()

    def _fail(self, error: LpserveError) -> None:
        self._fault = error
        self._upgrades.fail(str(error))
        self._loop.stop()

    def _tell_ready(self) -> None:
        """Doors are open, or a reload has ended."""
        if self._open and not self.stopping:
            self._systemd.ready(self._status.line(self._reloads.fault))

    def _callback_failed(self, error: Exception) -> None:
        if self._shortages.explain(error):
            return
        self._totals["faults"] += 1
        log.error("unexpected error: %s", error, exc_info=error)

    def _run_housekeeping(self) -> None:
        self._loop.call_later(HOUSEKEEPING, self._run_housekeeping)
        if self._upgrades.is_over:
            self._house.run_last_chores()
            self._ending.finish_if_done()
            return
        if self._open and not self.stopping:
            self._systemd.tell(self._status.line(self._reloads.fault))
        lost = self._house.run_chores()
        if lost is not None and not self.stopping:
            self._fault = NotOursAnyMore(f"{lost} was removed or replaced")
            log.error("%s: stopping", self._fault)
            self._ending.stop(now=False)

    def zygote_ended(self) -> None:
        """See `zygotes.ZygoteObserver`."""
        if not self.handed_over:
            self._house.clear_rehearsals()

    def shutdown(self, now: bool, asked_by: str) -> None:
        """See `verbs.ServiceControl`."""
        log.info("shutdown%s, asked for by %s", " now" if now else "", asked_by)
        self._upgrades.shutdown(now)
        self._ending.stop(now)

    def _begin_to_stop(self) -> None:
        self._systemd.stopping(
            f"stopping; {len(self._pool.busy)} connections to finish"
        )
        self._warmer.stop()
        if self._directory.is_ours and not self._ending.handed_over:
            self._warmer.save()
        self._reloads.stop()

    @property
    def stopping(self) -> bool:
        """See `verbs.ServiceControl`."""
        return self._ending.stopping

    @property
    def handed_over(self) -> bool:
        """Whether another process serves."""
        return self._upgrades.is_over

    @property
    def settings(self) -> Settings:
        """The current settings."""
        return self._reloads.settings

    def reload(self, reply: Reply, asked_by: str) -> None:
        """See `verbs.ServiceControl`."""
        log.info("reload, asked for by %s", asked_by)
        # First, because log rotation needs it even if the reload fails.
        self._reopen_logs()
        if self._upgrades.needed:
            self._systemd.reloading()
            self._upgrades.begin(reply, asked_by)
        else:
            self._reloads.ask(self._zygotes, reply)

    def upgrade(self, reply: Reply, asked_by: str) -> None:
        """See `verbs.ServiceControl`."""
        self._upgrades.begin(reply, asked_by)

    def _arrived(self, request: Request | RequestError, reply: Reply) -> None:
        self._verbs.arrived(request, reply)

    # -- zygotes ---------------------------------------------------------------

    def zygote_ready(self, new: Generation, old: Generation | None) -> None:
        """See `zygotes.ZygoteObserver`."""
        if not self.stopping:
            apply_to_warmer(self.settings, self._warmer)
        self._warmer.use(new)  # before it forks
        if old is not None:
            self._pool.zygote_lost(old.number)
            self._pool.retire_before(new.number)
        self._access.use(self.settings.for_worker(), new)
        if not self.stopping:
            admitting = self._admission, self._accounts
            parts = self._pool, self._doors, self._agent, self._drain, self._streams
            apply(self.settings, *admitting, *parts)
        if not self._open and not self.stopping:
            self._open_doors()
        self._reloads.end(self._zygotes)

    def zygote_lost(self, generation: Generation) -> None:
        """See `zygotes.ZygoteObserver`."""
        self._accounts.counts["zygote_deaths"] += 1
        self._pool.zygote_lost(generation.number)
        self._warmer.use(None)

    def zygote_failed(self, why: str) -> None:
        """See `zygotes.ZygoteObserver`."""
        if not self._open:
            self._fail(ZygoteError(why))
            return
        self._reloads.end(self._zygotes, why)
        while self._zygotes.present is None and self._pool.waiting:
            self._pool.waiting.popleft().refuse(FAILED, "no zygote; the log says why")

    def _request_fork(
        self, serials: list[int], ends: list[socket.socket], spare: bool
    ) -> int:
        zygote = self._zygotes.present
        if zygote is None:
            raise OSError("no zygote")
        zygote.fork(serials, ends, spare, self._board.take(serials))
        return zygote.number

    def forked(self, serial: int, pid: int) -> None:
        """See `zygotes.ZygoteObserver`."""
        self._accounts.counts["forks"] += serial >= 0
        (self._warmer if serial < 0 else self._pool).forked(serial, pid)
        oomscore.raise_score(pid)  # last: the worker has its connection first

    def fork_failed(self, serial: int, why: str) -> None:
        """See `zygotes.ZygoteObserver`."""
        (self._warmer if serial < 0 else self._pool).fork_failed(serial, why)

    def _start_connection(self, connection: Connection) -> None:
        self._totals["spawned"] += 1
        self._access.check()  # what its worker finds good stays, whatever comes next
        self._pool.submit(connection, self.settings.connect_timeout)

    def status(self) -> dict[str, object]:
        """The answer to ``status``; see `status.Status`."""
        return self._status.tell("stopping" if self.stopping else "running")

    def reopen(self, asked_by: str) -> None:
        """See `verbs.ServiceControl`."""
        log.info("reopen, asked for by %s", asked_by)
        self._reopen_logs()

    def _reopen_logs(self) -> None:
        self._log_file.reopen()
        self._accounts.access_log.reopen()
