# SPDX-License-Identifier: GPL-2.0-or-later

"""Provides workers of the fork service to servers written with Twisted.

A server that starts a process for every connection::

    reactor.spawnProcess(protocol, "brz", ["brz", "lp-serve", "--inet", user], env)

gets a worker instead, with nothing else changed, from::

    conch.spawnProcess(protocol, "brz", ["brz", "lp-serve", "--inet", user], env)

If its command names no user, or is another one, pass ``user=``.
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
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ..client.client import EX_TEMPFAIL, EX_UNAVAILABLE
from ..client.conversation import ClientError, NoService, Refused, spawn_words
from ..location import (
    CONNECT_TIMEOUT,
    ENVIRONMENT,
    read_configuration,
    runtime_directory,
)
from .asking import ServiceStart, WorkerRequest
from .fifos import Reader, Writer, close_soon
from .pipes import Pipes, Substitute
from .refusing import Refusal

log = Logger(namespace="lpserve")
_PIPES = {0: "w", 1: "r", 2: "r"}


@implementer(IReactorProcess)
class ForkService:
    """Where the fork service is, and what to do if it is not running.

    :param reactor: that of the server.
    :param directory: the runtime directory.
    :param environment: names that a request may set in a worker.
    :param autostart: whether the service is started if it is not running.
    :param connect_timeout: seconds to wait for an answer of the service.
    :param brz: the command that runs Breezy, a sequence of words.
    :param fallback: whether a process serves the connection if there is no service.
    """

    def __init__(
        self,
        reactor: Any,
        directory: str,
        environment: Sequence[str] = ENVIRONMENT,
        autostart: bool = False,
        connect_timeout: float = CONNECT_TIMEOUT,
        brz: Sequence[str] = ("brz",),
        fallback: bool = True,
    ):
        self.reactor = reactor
        self.directory = directory
        self.environment = environment
        self.autostart = autostart
        self.connect_timeout = connect_timeout
        self.brz = tuple(brz)
        self.fallback = fallback

    @classmethod
    def configured(cls, reactor: Any) -> ForkService:
        """Create one from the ``breezy.conf`` of this account.

        :raises ValueError: for an invalid value; its text is one line.
        """
        found = read_configuration()
        # It concerns the socket: a FIFO always belongs to our own service.
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

        :param executable, args: the command to run if there is no service. The
            default is ``brz lp-serve --inet USER``.
        :param env: a worker gets only those variables that the service allows.
        :param user: USER; not needed if *args* end in ``lp-serve --inet USER``.
        :raises ValueError: for options that a worker cannot have: another account
            or directory, a terminal, other descriptors.
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
        command = _Command(os.fsdecode(executable), words, env)
        return WorkerTransport(
            self, processProtocol, user, names, command if self.fallback else None
        )


def spawnProcess(
    processProtocol: IProcessProtocol,
    *args: Any,
    reactor: Any = None,
    **keywords: Any,
) -> WorkerTransport:
    """Call `ForkService.spawnProcess` of the service that breezy.conf configures.

    :param reactor: the default is the global reactor.
    """
    if reactor is None:
        from twisted.internet import reactor
    service = ForkService.configured(reactor)
    return service.spawnProcess(processProtocol, *args, **keywords)


class _Command(NamedTuple):
    """The command to run in place of a worker if there is no service."""

    executable: str
    args: list[str]
    env: Mapping[Any, Any] | None


@implementer(IProcessTransport)
class WorkerTransport(Pipes):
    """A worker of the fork service as a process of the reactor.

    It is connected from the start, like the result of ``reactor.spawnProcess``. Data
    that is written before there is a worker is buffered. No method blocks.

    :ivar pid: of the worker; None until the service has answered, and again when
        `processEnded` is called.
    :ivar started: the reactor's time when the worker was assigned, or None.
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

        :param env: names and values; those that a request may not set are left out.
        :param command: to run if there is no service, or None.
        """
        super().__init__()
        self._service = service
        self._reactor = service.reactor
        self.proto = processProtocol
        self._command = command
        self._words = lambda: spawn_words(user, service.environment, env)
        # `replace` exchanges them if a process is started in place of a worker.
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
        """Call a method of the protocol; log an exception that it raises."""
        try:
            call(*args)
        except Exception:
            log.failure("a process protocol failed")

    # -- the request for a worker ----------------------------------------------

    def _ask(self, autostart: bool) -> None:
        def failed(fault: NoService | ClientError) -> None:
            self._asking = None
            if isinstance(fault, Refused):
                self._refuse(fault.status, fault.public)
            elif isinstance(fault, ClientError):
                self._fail(fault.status, fault.public)
            elif autostart:
                ServiceStart(self._service, lambda: self._ask(False), self._no_service)
            else:
                self._no_service(fault)

        self._asking = WorkerRequest(self._service, self._words, self._answered, failed)

    def _answered(self, words: list[str]) -> None:
        """Handle an answer of the service: the first one, or the worker's end."""
        kind = words[0]
        if kind == "ok":
            self._connect(int(words[1]), words[2:])
        elif kind == "exit":
            self._exited(int(words[1]) << 8)
        elif kind == "signal":
            self._exited(int(words[1]))
        else:  # "gone"
            self._fail(EX_UNAVAILABLE, "the service and the worker were killed")

    def _connect(self, pid: int, paths: list[str]) -> None:
        self.pid = pid
        self.started = self._reactor.seconds()
        opened: list[int] = []
        try:
            # The kernel does not reuse a pid so soon.
            self._pidfd = os.pidfd_open(pid)
            # The service opens the read end of stdin before it answers.
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
            # The worker ended before it served: the next answer tells how.
            if self._pidfd >= 0:
                self._asking.watch_worker(self._pidfd)
            return
        # The worker would wait for us to open the FIFOs.
        with contextlib.suppress(OSError):
            if self._pidfd >= 0:
                signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)
            else:
                os.kill(pid, signal.SIGTERM)
        self._fail(EX_TEMPFAIL, f"cannot open a worker's FIFOs: {fault.strerror}")

    # -- without a service -----------------------------------------------------

    def _no_service(self, fault: NoService) -> None:
        if self._hung_up or self._signals:
            # The client has gone, or a signal is to end the process.
            self._exited(self._signals[0] if self._signals else signal.SIGHUP)
            return
        if self._command is None:
            log.warn("{fault}", fault=fault)
            self._refuse(EX_UNAVAILABLE, fault.public)
            return
        log.warn("{fault}; serving this connection without it", fault=fault)
        command = self._command
        try:
            self._process = self._reactor.spawnProcess(
                Substitute(self), command.executable, command.args, command.env
            )
        except Exception as problem:
            log.warn("cannot run {it}: {why}", it=command.executable, why=problem)
            self._fail(EX_UNAVAILABLE, "cannot run Breezy")
            return
        self.fallback = True
        self.started = self._reactor.seconds()
        self.pid = self._process.pid
        self.replace(self._process.pipes)

    def _refuse(self, status: int, text: str) -> None:
        """End with an answer to the client's first request; without one, `_fail`."""

        def tell(response: bytes | None) -> None:
            if response is None:
                self._fail(status, text)
            else:
                self.childDataReceived(1, response)
                self._exited(status << 8)

        Refusal(self._reactor, text, tell).listen(self.pipes.get(0))

    def _fail(self, status: int, text: str) -> None:
        """End with a line on standard error and a status, as the client would."""
        line = f"lp-serve: {text}\n".encode("utf-8", "replace")
        # Later: the caller of `spawnProcess` does not have its result yet.
        self._reactor.callLater(0, self.childDataReceived, 2, line)
        self._reactor.callLater(0, self._exited, status << 8)

    # -- the end ---------------------------------------------------------------

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """Pass on output of the worker, or of the process in its place."""
        if self.proto is not None:
            self._protect(self.proto.childDataReceived, childFD, data)

    def childConnectionLost(self, childFD: int) -> None:
        """Pass on that one of the pipes was closed."""
        self.pipes.pop(childFD, None)
        if self.proto is not None:
            self._protect(self.proto.childConnectionLost, childFD)
        self._end_if_all_is_over()

    def _exited(self, status: int) -> None:
        """The worker has ended with *status*, a wait status as of `os.waitpid`."""
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
        """Pass on how the worker, or the process in its place, has ended."""
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

        If there is no worker yet, it gets the signal as soon as it is assigned.

        :raises ProcessExitedAlready: if the worker has ended.
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
            # A pidfd, unlike a pid, never refers to another process.
            try:
                signal.pidfd_send_signal(self._pidfd, number)
            except ProcessLookupError:
                raise error.ProcessExitedAlready from None
