# SPDX-License-Identifier: GPL-2.0-or-later

"""Gives each connection a worker; forks and retires spare workers."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from .. import channel
from ..paths import RuntimeDirectory, remove_connection
from ..wire import FAILED, encode_answer
from .children import Children, ExitStatus
from .connection import Connection, Worker
from .demand import Demand
from .doors import noop
from .loop import Loop, Timer
from .missed import MissedModules


class Pool:
    """Hands connections to workers, spare ones first.

    :param request_fork: called with serial numbers, the workers' ends of their
        channels and whether they are spares. Returns the number of the generation
        that it asked; raises OSError if there is no zygote now.
    :param ended: called with a connection, its worker and how that ended.
    :param log: called with a line.
    :param heard: called with a worker and each message that is not for the pool.
    :param gone: called with the serial number of each worker that has ended.
    :param handed_over: called with each connection that was handed to a worker.
    """

    #: Seconds until a retry in a shortage of descriptors: nothing reports its end.
    RETRY = 0.2
    #: The longest pause after a failed fork; it doubles from `RETRY` to this.
    RETRY_AT_MOST = 30.0
    #: Seconds until a spare worker that was taken is replaced, if others are left:
    #: the new connection gets the CPU first.
    SETTLE = 0.02
    #: How many forks a zygote may owe at once.
    MAX_IN_FLIGHT = 16

    def __init__(
        self,
        loop: Loop,
        children: Children,
        directory: RuntimeDirectory,
        request_fork: Callable[[list[int], list[socket.socket], bool], int],
        ended: Callable[[Connection, Worker, ExitStatus], None],
        log: Callable[[str], None],
        heard: Callable[[Worker, dict[str, Any]], None] = lambda worker, message: None,
        gone: Callable[[int], None] = lambda serial: None,
        handed_over: Callable[[Connection], None] = lambda connection: None,
    ):
        self.demand = Demand()
        self.hangup_timeout = 0.0
        self.stopping = False
        self.busy: dict[int, Worker] = {}
        self.waiting: deque[Connection] = deque()
        self.spares: deque[Worker] = deque()
        self.in_flight: dict[int, Worker] = {}
        self._loop = loop
        self._children = children
        self._directory = directory
        self._request_fork = request_fork
        self._ended = ended
        self._log = log
        self._heard = heard
        self._gone = gone
        self._handed_over = handed_over
        self._serial = 0
        self._missed = MissedModules(log)
        self._retry: Timer | None = None
        self._pause = self.RETRY
        self._shrinking: Timer | None = None

    def submit(self, connection: Connection, patience: float) -> None:
        """Give *connection* a worker, now or within *patience* seconds."""
        self.demand.arrived()
        connection.reply.on_disconnect = lambda: self._abandoned(connection)
        while self.spares:
            worker = self.spares.popleft()
            if self._assign(worker, connection):
                if worker.connection is None:
                    self._offer(worker)
                break
        else:
            self.waiting.append(connection)
            connection.timer = self._loop.call_later(
                patience, lambda: self._give_up(connection)
            )
        # After the answer, so that the client does not wait for it.
        if self.spares:
            self._refill_later(self.SETTLE)
        else:
            self.refill()

    def refill(self) -> None:
        """Request the workers that are missing."""
        wanted = len(self.waiting)
        if not self.stopping:
            wanted += max(0, self.demand.wanted - len(self.spares))
        missing = min(wanted, self.MAX_IN_FLIGHT) - len(self.in_flight)
        while missing > 0:
            urgent = len(self.waiting) - len(self.in_flight)
            number = min(urgent if urgent > 0 else missing, channel.MAX_DESCRIPTORS)
            if not self._request(number, spare=urgent <= 0):
                return
            missing -= number

    def _request(self, number: int, spare: bool) -> bool:
        """Request *number* workers; False if not all could be requested."""
        pairs: list[tuple[socket.socket, socket.socket]] = []
        try:
            for _ in range(number):
                pairs.append(channel.pair())
        except OSError as error:
            self._log(f"cannot make a channel: {error.strerror}")
            self._refill_later(self.RETRY)
        serials = list(range(self._serial + 1, self._serial + 1 + len(pairs)))
        self._serial += len(pairs)
        theirs = [each for _, each in pairs]
        try:
            if not pairs:
                return False
            generation = self._request_fork(serials, theirs, spare)
        except OSError:
            for (ours, _), serial in zip(pairs, serials, strict=True):
                ours.close()
                self._gone(serial)
            return False  # no zygote; when the next one is ready `refill` is called
        finally:
            for each in theirs:
                each.close()
        for serial, (ours, _) in zip(serials, pairs, strict=True):
            ours.setblocking(False)
            self.in_flight[serial] = Worker(generation, ours, serial)
        return len(pairs) == number

    def _refill_later(self, seconds: float) -> None:
        if self._retry is None:
            self._retry = self._loop.call_later(seconds, self._refill_now)

    def _refill_now(self) -> None:
        self._retry = None
        self.refill()

    def forked(self, serial: int, pid: int) -> None:
        """The zygote has forked the worker *serial* as our child *pid*."""
        worker = self.in_flight.pop(serial)
        self._pause = self.RETRY
        try:
            worker.child = self._children.add(
                pid, lambda end: self._worker_ended(worker, end), leader=True
            )
            self._loop.watch(
                worker.channel.fileno(), lambda: self._read_messages(worker)
            )
        except OSError as error:
            # Its channel closes, so it exits; `Children` reaps it.
            self._log(f"cannot watch worker {pid}: {error.strerror}")
            worker.retired = True
            worker.channel.close()
            self._gone(serial)
            self._refill_later(self.RETRY)
            return
        if worker.outdated:
            self._retire(worker)
        else:
            self._offer(worker)
        self.refill()

    def _offer(self, worker: Worker) -> None:
        while self.waiting:
            connection = self.waiting.popleft()
            if self._assign(worker, connection):
                if worker.connection is not None:
                    return
            elif worker.retired:
                self.waiting.appendleft(connection)
                return
        if self.stopping or len(self.spares) >= self.demand.wanted:
            self._retire(worker)
            return
        self.spares.append(worker)
        if len(self.spares) > self.demand.least and self._shrinking is None:
            self._shrinking = self._loop.call_later(Demand.HALF_LIFE, self._shrink)

    def _shrink(self) -> None:
        """Retire surplus spare workers."""
        self._shrinking = None
        while len(self.spares) > self.demand.wanted:
            self._retire(self.spares.pop())
        if len(self.spares) > self.demand.least:
            self._shrinking = self._loop.call_later(Demand.HALF_LIFE, self._shrink)

    def fork_failed(self, serial: int, why: str) -> None:
        """The fork of *serial* failed: refuse the connection that waits longest."""
        self.in_flight.pop(serial).channel.close()
        self._gone(serial)
        self._log(f"cannot fork a worker: {why}")
        if self.waiting:
            self.waiting.popleft().refuse(FAILED, f"cannot fork a worker: {why}")
        # With a growing pause: the cause may persist (a thread, a limit).
        self._refill_later(self._pause)
        self._pause = min(self._pause * 2, self.RETRY_AT_MOST)

    def zygote_lost(self, generation: int) -> None:
        """Drop the forks that *generation* still owes."""
        for serial, worker in list(self.in_flight.items()):
            if worker.generation == generation:
                del self.in_flight[serial]
                worker.channel.close()
                self._gone(serial)

    def retire_before(self, generation: int) -> None:
        """Retire the spare workers of older generations."""
        for worker in list(self.spares):
            if worker.generation < generation:
                self.spares.remove(worker)
                self._retire(worker)

    def resize(self, least: int, most: int = 0) -> None:
        """Keep *least* spare workers from now on, and up to *most* on demand."""
        self.demand.least, self.demand.most = least, most
        while len(self.spares) > self.demand.wanted:
            self._retire(self.spares.popleft())
        self.refill()

    def renew_spares(self) -> None:
        """Replace the spare workers, also those that are being forked."""
        for worker in self.in_flight.values():
            worker.outdated = True
        for _ in range(len(self.spares)):
            self._retire(self.spares.popleft())
        self.refill()

    def counts(self) -> dict[str, int]:
        """How many workers and waiting connections there are, by state."""
        return {
            "spare": len(self.spares),
            "busy": len(self.busy),
            "waiting": len(self.waiting),
            "starting": len(self.in_flight),
        }

    def signal_all(self, number: int) -> None:
        """Send signal *number* to every worker that has a connection."""
        for worker in self.busy.values():
            if worker.child is not None:
                worker.child.signal(number)

    def _give_up(self, connection: Connection) -> None:
        if connection in self.waiting:
            self.waiting.remove(connection)
            connection.refuse(FAILED, "no worker could be started in time")

    def _abandoned(self, connection: Connection) -> None:
        """The requester of *connection* has gone: end its worker, as sshd would."""
        if connection in self.waiting:
            self.waiting.remove(connection)
            connection.refuse(FAILED, "the client went away")
            return
        worker = connection.worker
        if worker is None or worker.child is None:
            return
        self._read_messages(worker)  # it may have sent "left"
        if worker.child.pid in self.busy:
            child = worker.child
            connection.client_gone = True
            child.signal(signal.SIGHUP)
            if connection.evicted:
                return  # it has a timer
            connection.timer = self._loop.call_later(
                self.hangup_timeout, lambda: self._children.terminate(child)
            )

    def _assign(self, worker: Worker, connection: Connection) -> bool:
        """Give *connection* to *worker*; False if *worker* has ended.

        If the service cannot create FIFOs, it refuses the connection, and *worker*
        stays spare.
        """
        assert worker.child is not None
        if connection.reply.attached:
            # The worker answers itself: it has the connection at the socket.
            handed = worker.take(connection, connection.reply.attached)
            answer = None
        else:
            try:
                made = self._directory.make_connection()
            except OSError as error:
                connection.refuse(FAILED, f"cannot make FIFOs: {error.strerror}")
                return True
            paths = {"path": made.path, "reply": connection.reply.path}
            handed = worker.take(connection, (made.stdin, made.held), **paths)
            made.close()
            if handed:
                connection.path = made.path
            else:
                remove_connection(made.path)
            answer = encode_answer("ok", worker.child.pid, *made.fifos)
        if not handed:
            self._retire(worker)
            return False
        if connection.timer is not None:
            connection.timer.cancel()
        worker.connection, connection.worker = connection, worker
        connection.handed_over = time.monotonic()
        self.busy[worker.child.pid] = worker
        connection.reply.hand_over()
        if answer is not None and not connection.reply.send(answer):
            connection.client_gone = True  # the client will not open the FIFOs
            self._children.terminate(worker.child)
        self._handed_over(connection)
        return True

    def _retire(self, worker: Worker) -> None:
        """Close the channel of *worker*, at which a spare worker exits."""
        if not worker.retired:
            worker.retired = True
            self._loop.forget(worker.channel.fileno())
            worker.channel.close()
            if worker.connection is None and worker.child is not None:
                self._children.let_go(worker.child)

    def discard(self, worker: Worker) -> None:
        """Kill a spare worker; another one takes its place."""
        assert worker.child is not None
        self.spares.remove(worker)
        worker.child.signal(signal.SIGKILL)
        self._retire(worker)
        self.refill()

    def send_to_spares(self, path: str, descriptor: int | None) -> None:
        """Send the spare workers a repository; see `Generation.keep`."""
        descriptors = () if descriptor is None else (descriptor,)
        for worker in self.spares:
            with contextlib.suppress(OSError):  # it will read the repository itself
                channel.send(worker.channel, "warm", descriptors, path=path)

    def _read_messages(self, worker: Worker) -> None:
        for message in worker.messages():
            self._handle_message(worker, message)

    def _handle_message(self, worker: Worker, message: dict[str, Any] | None) -> None:
        if message is None:
            if worker in self.spares:
                self.spares.remove(worker)
            self._retire(worker)
        elif message["kind"] == "stayed":
            worker.left = False
        elif message["kind"] == "left" and worker.child is not None:
            worker.left = True
            # Its client may be back before we have reaped it.
            self._leave_busy(worker.child.pid)
        elif message["kind"] == "pong":
            worker.silent = 0
        elif message["kind"] == "gone" and worker.connection is not None:
            worker.connection.client_gone = True
        elif message["kind"] == "imported":
            self._missed.report(message.get("names"))
        else:
            self._heard(worker, message)

    def _leave_busy(self, pid: int) -> None:
        worker = self.busy.pop(pid, None)
        if worker is not None and worker.connection is not None:
            worker.connection.release()

    def _worker_ended(self, worker: Worker, end: ExitStatus) -> None:
        self._read_messages(worker)  # the last messages may be unread
        if worker in self.spares:
            self.spares.remove(worker)
        self._retire(worker)
        connection = worker.connection
        if connection is not None and worker.child is not None:
            self._leave_busy(worker.child.pid)
            if connection.path is not None and os.path.lexists(connection.path):
                remove_connection(connection.path)
            if end.kind == "signal" or not worker.left:
                connection.reply.send(encode_answer(end.kind, end.number))
            connection.reply.close()
            if connection.timer is not None:
                connection.timer.cancel()
            # Break reference cycles: the garbage collector does not run often.
            connection.reply.on_disconnect = noop
            connection.worker = None
            self._ended(connection, worker, end)
        worker.child = worker.connection = None
        self._gone(worker.serial)
        self.refill()
