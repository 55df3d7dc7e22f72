# SPDX-License-Identifier: GPL-2.0-or-later

"""Workers of the fork service for servers written with Twisted.

A server that starts a process for every connection::

    reactor.spawnProcess(protocol, "brz", ["brz", "lp-serve", "--inet", user], env)

gets a worker instead, with nothing else changed, from::

    conch.spawnProcess(protocol, "brz", ["brz", "lp-serve", "--inet", user], env)

and where its command names no user, or is another, by saying ``user=``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from twisted.internet import error
from twisted.internet.interfaces import (
    IProcessProtocol,
    IProcessTransport,
    IReactorProcess,
)
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ..client.client import EX_NOPERM, EX_TEMPFAIL, EX_UNAVAILABLE, EX_USAGE
from ..client.conversation import ClientError, NoService, spawn_words
from ..location import (
    CONNECT_TIMEOUT,
    ENVIRONMENT,
    read_configuration,
    runtime_directory,
)
from .asking import ServiceStart, WorkerRequest
from .fifos import Reader, Writer, close_soon
from .pipes import Pipes

log = Logger(namespace="lpserve")

_STATUSES = {"busy": EX_TEMPFAIL, "denied": EX_NOPERM, "bad-request": EX_USAGE}
_PIPES = {0: "w", 1: "r", 2: "r"}


@implementer(IReactorProcess)
class ForkService:
    """Where the fork service is, and what to do where it is not.

    :param reactor: that of the server.
    :param directory: the runtime directory.
    :param environment: names that a request may set in a worker.
    :param autostart: whether the service is started if it is not running.
    :param connect_timeout: seconds to wait for an answer of the service.
    :param brz: the words that run Breezy.
    """

    def __init__(
        self,
        reactor: Any,
        directory: str,
        environment: Sequence[str] = ENVIRONMENT,
        autostart: bool = False,
        connect_timeout: float = CONNECT_TIMEOUT,
        brz: Sequence[str] = ("brz",),
    ):
        self.reactor = reactor
        self.directory = directory
        self.environment = environment
        self.autostart = autostart
        self.connect_timeout = connect_timeout
        self.brz = tuple(brz)

    @classmethod
    def configured(cls, reactor: Any) -> ForkService:
        """As the ``breezy.conf`` of this account says.

        :raises ValueError: for a value that cannot be understood; a line.
        """
        found = read_configuration()
        # For the socket: at the FIFO the service is always our own.
        del found["service_user"]
        directory = runtime_directory(None, found.pop("runtime_dir"))
        return cls(reactor, directory, **found)

    def spawnProcess(
        self,
        processProtocol: IProcessProtocol,
        executable: str | bytes | None = None,
        args: Sequence[str | bytes] = (),
        env: Mapping[Any, Any] | None = {},
        path: str | None = None,
        uid: int | None = None,
        gid: int | None = None,
        usePTY: bool = False,
        childFDs: Mapping[int, int | str] | None = None,
        user: str | None = None,
    ) -> WorkerTransport:
        """Have a worker serve *processProtocol*; as ``reactor.spawnProcess``.

        :param executable, args: what is run where there is no service. Their
            default is ``brz lp-serve --inet USER``.
        :param env: of these a worker gets what the service lets requests set.
        :param user: USER; not needed where *args* end in ``lp-serve --inet USER``.
        :raises ValueError: for what a worker cannot be: a process of another
            account or in another directory, or one with a terminal.
        """
        if usePTY or (path, uid, gid) != (None, None, None):
            raise ValueError("a worker has no usePTY, path, uid or gid")
        if childFDs is not None and dict(childFDs) != _PIPES:
            raise ValueError(f"a worker has the childFDs {_PIPES}")
        words = [os.fsdecode(each) for each in args]
        if user is None:
            if words[-3:-1] != ["lp-serve", "--inet"]:
                raise ValueError("say user=, or args that end in lp-serve --inet USER")
            user = words[-1]
        if executable is None:
            words = [*self.brz, "lp-serve", "--inet", "--", user]
            executable = words[0]
        given = (os.environ if env is None else env).items()
        names = {os.fsdecode(name): os.fsdecode(value) for name, value in given}
        fallback = _Command(os.fsdecode(executable), words, env)
        return WorkerTransport(self, processProtocol, user, names, fallback)


def spawnProcess(
    processProtocol: IProcessProtocol,
    *args: Any,
    reactor: Any = None,
    **keywords: Any,
) -> WorkerTransport:
    """`ForkService.spawnProcess` of the service that breezy.conf tells of.

    :param reactor: the default is the one that runs.
    """
    if reactor is None:
        from twisted.internet import reactor
    service = ForkService.configured(reactor)
    return service.spawnProcess(processProtocol, *args, **keywords)


class _Command(NamedTuple):
    """What is run in place of a worker where there is no service."""

    executable: str
    args: list[str]
    env: Mapping[Any, Any] | None


@implementer(IProcessTransport)
class WorkerTransport(Pipes):
    """A worker of the fork service as a process of the reactor's.

    It is connected from the start, as those of ``spawnProcess`` are: what is
    written before the worker is there waits for it. Nothing here ever waits
    for the service, or for the worker.

    :ivar pid: the worker's; None until the service has answered, and again when
        `processEnded` is called.
    :ivar started: the reactor's time when the worker was there, or None.
    :ivar fallback: whether a process was started in place of a worker.
    """

    pid: int | None = None
    started: float | None = None
    fallback = False

    def __init__(
        self,
        service: ForkService,
        processProtocol: IProcessProtocol,
        user: str,
        env: Mapping[str, str],
        command: _Command | None,
    ):
        """Ask *service* for a worker for *user*.

        :param env: names and values; what a request may not set is left out.
        :param command: what to run where there is no service, or None.
        """
        super().__init__()
        self._service = service
        self._reactor = service.reactor
        self.proto = processProtocol
        self._command = command
        self._words = lambda: spawn_words(user, service.environment, env)
        # Once there is a process in place of a worker these are its own.
        lost, received = self.childConnectionLost, self.childDataReceived
        self.pipes = {0: Writer(self._reactor, lost)}
        for number in (1, 2):
            self.pipes[number] = Reader(self._reactor, number, received, lost)
        self._asking: WorkerRequest | None = None
        self._process: Any = None
        self._pidfd = -1
        self._signals: list[int] = []
        self._reason: Failure | None = None
        self._protect(processProtocol.makeConnection, self)
        self._ask(service.autostart)

    @staticmethod
    def _protect(call: Callable[..., Any], *args: Any) -> None:
        """Call the protocol, whose faults are not ours."""
        try:
            call(*args)
        except Exception:
            log.failure("a process protocol failed")

    # -- becoming a worker -----------------------------------------------------

    def _ask(self, autostart: bool) -> None:
        def failed(fault: NoService | ClientError) -> None:
            self._asking = None
            if isinstance(fault, ClientError):
                self._fail(fault.status, fault.public)
            elif autostart:
                ServiceStart(self._service, lambda: self._ask(False), self._no_service)
            else:
                self._no_service(fault)

        self._asking = WorkerRequest(self._service, self._words, self._answered, failed)

    def _answered(self, words: list[str]) -> None:
        """The service has answered, or said how the worker ended."""
        kind = words[0]
        if kind == "ok":
            self._connect(int(words[1]), words[2:])
        elif kind == "exit":
            self._exited(int(words[1]) << 8)
        elif kind == "signal":
            self._exited(int(words[1]))
        elif kind == "gone":
            self._fail(EX_UNAVAILABLE, "the service and the worker were killed")
        else:
            self._fail(_STATUSES[words[1]], ": ".join(words[1:]))

    def _connect(self, pid: int, paths: list[str]) -> None:
        self.pid = pid
        self.started = self._reactor.seconds()
        opened: list[int] = []
        try:
            # Pids are given out in turn: this is no other process's yet.
            self._pidfd = os.pidfd_open(pid)
            # The service has opened the read end of stdin before it answered.
            opened.append(os.open(paths[0], os.O_WRONLY | os.O_NONBLOCK))
            for path in paths[1:]:
                opened.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        except OSError as fault:
            for number in opened:
                os.close(number)
            self._not_connected(pid, fault)
            return
        assert self._asking is not None
        self._asking.watch_worker(self._pidfd)
        for number in self._signals:
            self.signalProcess(number)
        self.pipes[0].open(opened[0])
        for number in (1, 2):
            self.pipes[number].open(opened[number], paths[number])

    def _not_connected(self, pid: int, fault: OSError) -> None:
        if fault.errno in (errno.ENOENT, errno.ENXIO, errno.ESRCH):
            # The worker ended before it served: the next answer says how.
            if self._pidfd >= 0:
                self._asking.watch_worker(self._pidfd)
            return
        # It would wait for us to open them.
        with contextlib.suppress(OSError):
            if self._pidfd >= 0:
                signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)
            else:
                os.kill(pid, signal.SIGTERM)
        self._fail(EX_TEMPFAIL, f"cannot open a worker's FIFOs: {fault.strerror}")

    # -- without a service -----------------------------------------------------

    def _no_service(self, fault: NoService) -> None:
        if self._hung_up or self._signals:
            # Nobody is there any more for whom it could be served.
            self._exited(self._signals[0] if self._signals else signal.SIGHUP)
            return
        if self._command is None:
            log.warn("{fault}", fault=fault)
            self._fail(EX_UNAVAILABLE, fault.public)
            return
        log.warn("{fault}; serving this connection without it", fault=fault)
        command = self._command
        try:
            self._process = self._reactor.spawnProcess(
                _Substitute(self), command.executable, command.args, command.env
            )
        except Exception as problem:
            log.warn("cannot run {it}: {why}", it=command.executable, why=problem)
            self._fail(EX_UNAVAILABLE, "cannot run Breezy")
            return
        self.fallback = True
        self.started = self._reactor.seconds()
        self.pid = self._process.pid
        self.replace(self._process.pipes)

    def _fail(self, status: int, text: str) -> None:
        """End as a client of the service would: with a line and a status."""
        line = f"lp-serve: {text}\n".encode("utf-8", "replace")
        # Later: whoever asked for this process does not have it yet.
        self._reactor.callLater(0, self.childDataReceived, 2, line)
        self._reactor.callLater(0, self._exited, status << 8)

    # -- the end ---------------------------------------------------------------

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """Something came from a worker, or from a process in place of it."""
        if self.proto is not None:
            self._protect(self.proto.childDataReceived, childFD, data)

    def childConnectionLost(self, childFD: int) -> None:
        """One of our ends has been closed."""
        self.pipes.pop(childFD, None)
        if self.proto is not None:
            self._protect(self.proto.childConnectionLost, childFD)
        self._end_if_all_is_over()

    def _exited(self, status: int) -> None:
        """The worker has ended with *status*, as `os.waitpid` gives it."""
        number = status & 0x7F
        if number:
            reason = error.ProcessTerminated(None, number, status)
        elif status:
            reason = error.ProcessTerminated(status >> 8, None, status)
        else:
            reason = error.ProcessDone(status)
        self.processExited(Failure(reason))
        for pipe in list(self.pipes.values()):
            pipe.drain()

    def processExited(self, reason: Failure) -> None:
        """It is known how it has ended."""
        if self._reason is not None:
            return
        self._reason = reason
        if self._asking is not None:
            self._asking.stop()
        close_soon(self._reactor, self._pidfd)
        self._pidfd = -1
        self._protect(self.proto.processExited, reason)
        self._end_if_all_is_over()

    def _end_if_all_is_over(self) -> None:
        if self._reason is None or self.pipes or self.proto is None:
            return
        proto, self.proto, self.pid = self.proto, None, None
        self._protect(proto.processEnded, self._reason)

    # -- signals ---------------------------------------------------------------

    def signalProcess(self, signalID: str | int) -> None:
        """Send a signal, given by its number or by its name without ``SIG``.

        A worker that is not there yet gets it as soon as it is.

        :raises ProcessExitedAlready: if it has ended, known to us or not.
        :raises ValueError: if there is no such signal.
        """
        number = signalID
        if isinstance(signalID, str):
            number = getattr(signal, f"SIG{signalID}", None)
        if not isinstance(number, int) or not 0 <= number < signal.NSIG:
            raise ValueError(f"there is no signal {signalID}")
        if self._process is not None and self._reason is None:
            self._process.signalProcess(int(number))
        elif self.pid is None and self._reason is None:
            self._signals.append(number)
        elif self._pidfd < 0:
            raise error.ProcessExitedAlready
        else:
            # A descriptor for the process cannot come to mean another one.
            try:
                signal.pidfd_send_signal(self._pidfd, number)
            except ProcessLookupError:
                raise error.ProcessExitedAlready from None


class _Substitute(ProcessProtocol):
    """A process in place of a worker: what becomes of it becomes of the transport."""

    def __init__(self, owner: WorkerTransport):
        self.childDataReceived = owner.childDataReceived
        self.childConnectionLost = owner.childConnectionLost
        self.processExited = owner.processExited
