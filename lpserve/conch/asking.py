# SPDX-License-Identifier: GPL-2.0-or-later

"""Asks the service for a worker, or starts the service, without blocking."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.error import ProcessDone
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from ..client.autostart import PAUSE, last_line, starting
from ..client.client import EX_NOPERM, EX_TEMPFAIL, EX_USAGE
from ..client.conversation import (
    ClientError,
    Conversation,
    NoService,
    Refused,
    service_fault,
)
from ..client.relay import service_pidfd
from ..drained import read_drained
from .fifos import DescriptorWatcher, close_soon

_STATUSES = {"denied": EX_NOPERM, "bad-request": EX_USAGE}


class Service(Protocol):
    """What is needed of `conch.ForkService`."""

    reactor: Any
    directory: str
    connect_timeout: float
    brz: tuple[str, ...]


class WorkerRequest:
    """A request for a worker, from the request to the worker's end.

    :param words: returns the words of the request, or raises `ClientError`.
    :param answered: called with the words of ``ok``, and then with those of the
        worker's end, or ``gone`` if both the service and the worker ended without an
        answer.
    :param failed: called instead, with `NoService` if the service gives no worker;
        with `Refused` if nothing is to serve the connection; or with another
        `ClientError`, which may be that of *words*.
    """

    def __init__(
        self,
        service: Service,
        words: Callable[[], list[str]],
        answered: Callable[[list[str]], None],
        failed: Callable[[NoService | ClientError], None],
    ):
        self._reactor = reactor = service.reactor
        self._directory = service.directory
        self._answered = answered
        self._failed = failed
        self._started = self._stopped = self._service_gone = False
        self._pidfd = self._service = -1
        self._service_watch: DescriptorWatcher | None = None
        self._watches: list[DescriptorWatcher] = []
        self._timer: Any = None
        self._conversation: Conversation | None = None
        # The reactor may stop before all workers have ended.
        self._trigger = reactor.addSystemEventTrigger("after", "shutdown", self.stop)
        try:
            self._conversation = conversation = Conversation(service.directory)
            conversation.prepare(words())
            room = None if conversation.write() else self._write
        except (NoService, ClientError) as fault:
            self._timer = reactor.callLater(0, self._fail, fault)
            return
        self._control = DescriptorWatcher(
            reactor, conversation.control, self._gone, room
        )
        self._watches = [
            self._control,
            DescriptorWatcher(reactor, conversation.reply, self._read),
        ]
        fault = conversation.fault(" does not answer")
        self._timer = reactor.callLater(service.connect_timeout, self._fail, fault)

    def watch_worker(self, pidfd: int) -> None:
        """Use *pidfd* to notice the worker's end if the service ends first."""
        self._pidfd = pidfd

    def stop(self) -> None:
        """Close the conversation and stop watching; idempotent."""
        if not self._stopped:
            self._stopped = True
            with contextlib.suppress(ValueError):  # the trigger itself has called us
                self._reactor.removeSystemEventTrigger(self._trigger)
        while self._watches:
            self._watches.pop().stop()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if (conversation := self._conversation) is not None:
            close_soon(self._reactor, conversation.control)
            close_soon(self._reactor, conversation.reply)
            conversation.control = conversation.reply = -1
            conversation.close()
            if self._service >= 0:
                close_soon(self._reactor, self._service)
                self._service = -1

    def _fail(self, fault: NoService | ClientError) -> None:
        self.stop()
        if isinstance(fault, NoService):
            message = read_drained(self._directory)
            if message is not None:
                fault = Refused(EX_TEMPFAIL, message)
        self._failed(fault)

    def _write(self) -> None:
        assert self._conversation is not None
        try:
            if self._conversation.write():
                self._control.no_more_room_wanted()
        except NoService as fault:
            self._fail(fault)

    def _read(self) -> None:
        assert self._conversation is not None
        try:
            while not self._stopped:
                answer = self._conversation.read_answer()
                if answer is None:
                    return
                self._take(answer)
        except NoService as fault:
            self._lose(fault)
        except (ValueError, IndexError, KeyError):
            self._lose(self._conversation.not_understood())

    def _take(self, answer: list[str]) -> None:
        if not self._started and answer[0] == "error":
            self._fail(self._fault(answer[1], " ".join(answer[2:])))
            return
        if not self._started:
            if answer[0] != "ok":
                raise ValueError(answer[0])
            self._started = True
            self._timer.cancel()
            self._answered(answer)
            self._watch_service()
            return
        self._answered(answer)

    def _watch_service(self) -> None:
        # Last: the connection needs descriptors more than this does.
        if self._stopped or self._service_gone:
            return
        self._service = service_pidfd(self._directory)
        if self._service >= 0:
            watch = DescriptorWatcher(self._reactor, self._service, self._gone)
            self._watches.append(watch)
            self._service_watch = watch

    def _fault(self, code: str, text: str) -> NoService | ClientError:
        """What the answer ``error CODE TEXT`` means.

        :raises ValueError: for an unknown code.
        """
        if code in ("busy", "draining"):
            return Refused(EX_TEMPFAIL, text)
        rest = f"{code}: {text}"
        if code in _STATUSES:
            return ClientError(_STATUSES[code], rest)
        if code not in ("stopping", "failed"):
            raise ValueError(code)
        return service_fault(self._directory, "the service", f" says {rest}")

    def _gone(self) -> None:
        """The service has closed the control FIFO."""
        if self._service_gone:
            return
        self._service_gone = True
        self._control.stop()
        if self._service_watch is not None:
            self._service_watch.stop()
        self._read()
        if self._stopped:
            return
        if self._pidfd >= 0:
            # The worker goes on, and writes the last answer itself.
            watch = DescriptorWatcher(self._reactor, self._pidfd, self._all_gone)
            self._watches.append(watch)
        else:
            self._all_gone()

    def _all_gone(self) -> None:
        """The service, and the worker if there was one, have ended: read the rest."""
        self._read()
        if not self._stopped:
            assert self._conversation is not None
            self._lose(self._conversation.ended())

    def _lose(self, fault: NoService) -> None:
        if self._started:
            self.stop()
            self._answered(["gone"])
        else:
            self._fail(fault)


class ServiceStart:
    """Starts the service, once for all that ask for it (see `autostart`).

    :param ready: called when the service is ready.
    :param failed: called instead with a `NoService`.
    """

    def __init__(
        self,
        service: Service,
        ready: Callable[[], None],
        failed: Callable[[NoService], None],
    ):
        self._reactor = service.reactor
        self._ready = ready
        self._failed = failed
        self._steps = starting(service.directory, service.brz)
        self._done = False
        fault = NoService("the service is still being started")
        self._timer = self._reactor.callLater(
            service.connect_timeout, self._end, failed, fault
        )
        self._go_on(None)

    def _end(self, call: Callable[..., None], *args: Any) -> None:
        self._done = True
        self._steps.close()
        if self._timer.active():
            self._timer.cancel()
        call(*args)

    def _go_on(self, result: str | None) -> None:
        if self._done:
            return
        try:
            words = self._steps.send(result)
        except StopIteration:
            self._end(self._ready)
        except NoService as fault:
            self._end(self._failed, fault)
        else:
            if words is None:
                self._reactor.callLater(PAUSE, self._go_on, None)
            else:
                self._run(words)

    def _run(self, words: list[str]) -> None:
        try:
            self._reactor.spawnProcess(_Daemon(self._go_on), words[0], words, None)
        except OSError as error:
            self._go_on(f"cannot run {words[0]}: {error.strerror}")


class _Daemon(ProcessProtocol):
    """The protocol of the command that starts the service in the background."""

    def __init__(self, ended: Callable[[str | None], None]):
        self._ended = ended
        self._said = b""

    def errReceived(self, data: bytes) -> None:
        self._said = (self._said + data)[-4096:]

    def processEnded(self, reason: Failure) -> None:
        self._ended(None if reason.check(ProcessDone) else last_line(self._said))
