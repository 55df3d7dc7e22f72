# SPDX-License-Identifier: GPL-2.0-or-later

"""Tests with a reactor of Twisted's of their own, in the process of the tests.

The test itself runs the loop, from event to event (`ReactorMixin.run_until`): in
between, nothing that happens is noticed, so that a test can decide who comes first.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import twisted.internet
from breezy.tests import TestCaseInTempDir
from twisted.internet import process
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.pollreactor import PollReactor
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.selectreactor import SelectReactor
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.python.failure import Failure

from ..harness import LiveTestCase, descriptors_of
from ..waiting import DEADLINE

#: For a class whose tests are to run on each kind of reactor.
REACTORS = [
    ("epoll", {"reactor_class": EPollReactor}),
    ("poll", {"reactor_class": PollReactor}),
    ("select", {"reactor_class": SelectReactor}),
]

_SIGNALS = (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM)


class Recorder(ProcessProtocol):
    """A process protocol that writes down what it is told.

    :ivar events: ``made``, ``out``, ``err``, ``lost 0`` to ``lost 2``, ``exited``
        and ``ended``, in order; ``out`` and ``err`` once however many times in a
        row.
    :ivar out, err: what came.
    :ivar lost: the numbers of the descriptors that are closed, in order.
    :ivar exited, ended: the reason why, None before.
    :ivar pids: the transport's pid at each of ``made``, ``exited`` and ``ended``.
    """

    def __init__(self) -> None:
        self.events: list[str] = []
        self.out = self.err = b""
        self.lost: list[int] = []
        self.exited: Any = None
        self.ended: Any = None
        self.pids: dict[str, int | None] = {}

    @property
    def made(self) -> bool:
        """Whether it has been connected."""
        return "made" in self.events

    def _note(self, event: str) -> None:
        if event not in ("out", "err") or self.events[-1:] != [event]:
            self.events.append(event)

    def connectionMade(self) -> None:
        self._note("made")
        self.pids["made"] = self.transport.pid

    def outReceived(self, data: bytes) -> None:
        self._note("out")
        self.out += data

    def errReceived(self, data: bytes) -> None:
        self._note("err")
        self.err += data

    def childConnectionLost(self, childFD: int) -> None:
        # Not the inherited one, which knows of no other than 0, 1 and 2.
        self._note(f"lost {childFD}")
        self.lost.append(childFD)

    def processExited(self, reason: Failure) -> None:
        self._note("exited")
        self.exited = reason.value
        self.pids["exited"] = self.transport.pid

    def processEnded(self, reason: Failure) -> None:
        self._note("ended")
        self.ended = reason.value
        self.pids["ended"] = self.transport.pid


class Producer:
    """Writes nothing by itself: the test does, and looks at what it was told.

    :ivar told: ``pause``, ``resume`` and ``stop``, in order.
    """

    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


class ReactorMixin:
    """For a `TestCase`: a reactor, and at the end a look at what is left of it.

    :ivar reactor: the test's own; also what ``twisted.internet.reactor`` is.
    :ivar logged: what was logged through Twisted, as its events.
    """

    reactor_class: Any = EPollReactor

    def setUp(self) -> None:
        super().setUp()
        self._descriptors = descriptors_of(os.getpid())
        self.logged: list[LogEvent] = []
        # Instead of others, which would write to standard error.
        self.overrideAttr(globalLogPublisher, "_observers", [self.logged.append])
        self.addCleanup(self._check_log)
        handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        self.addCleanup(self._restore_signals, handlers, signal.set_wakeup_fd(-1))
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.reactor = self.reactor_class()
        self.overrideAttr(twisted.internet, "reactor", self.reactor)
        self.addCleanup(self._close_reactor)
        self.reactor.startRunning()

    # -- running it ------------------------------------------------------------

    def run_until(
        self, ready: Callable[[], Any], what: str, deadline: float = DEADLINE
    ) -> Any:
        """Run the reactor until *ready* returns something true, which is returned.

        It is looked at whenever something has happened in the reactor, and every
        twentieth of a second for what happens elsewhere.
        """
        end = time.monotonic() + deadline
        while not (result := ready()):
            if time.monotonic() > end:
                raise AssertionError(f"did not happen within {deadline} s: {what}")
            if not self.reactor.running:
                raise AssertionError(f"the reactor was stopped before: {what}")
            self.reactor.runUntilCurrent()
            pause = self.reactor.timeout()
            self.reactor.doIteration(0.05 if pause is None else min(0.05, pause))
        return result

    def turn(self, turns: int = 3) -> None:
        """Let the reactor do what there is to do at once, and what comes of that."""
        for _ in range(turns):
            self.reactor.iterate(0)

    def run_to_end(self, *protocols: Recorder) -> None:
        """Run the reactor until the processes of all *protocols* have ended."""
        self.run_until(
            lambda: all(each.ended is not None for each in protocols),
            f"the end of {[each.events for each in protocols]}",
        )

    # -- what was logged -------------------------------------------------------

    def failures(self) -> list[Failure]:
        """The failures that were logged; a test that expects them clears `logged`."""
        return [event["log_failure"] for event in self.logged if "log_failure" in event]

    def log_lines(self, namespace: str = "lpserve") -> list[str]:
        """What was logged under *namespace*, formatted."""
        return [
            formatEvent(event)
            for event in self.logged
            if event.get("log_namespace", "").startswith(namespace)
        ]

    # -- the end ---------------------------------------------------------------

    def _check_log(self) -> None:
        found = [failure.getTraceback() for failure in self.failures()]
        self.assertEqual([], found)

    def _restore_signals(self, handlers: dict[int, Any], wakeup: int) -> None:
        signal.set_wakeup_fd(wakeup)
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def _close_reactor(self) -> None:
        """Take the reactor apart; fail if anything was left in it, or open."""
        reactor = self.reactor
        reactor.runUntilCurrent()  # what was put off to the next turn
        left: list[Any] = [*reactor.removeAll(), *reactor.getDelayedCalls()]
        for call in reactor.getDelayedCalls():
            call.cancel()
        left += self._end_processes()
        # What nobody else does (see twisted.internet.test.reactormixins).
        if reactor.threadpool is not None:
            reactor._stopThreadPool()
        reactor._uninstallHandler()
        for reader in list(reactor._internalReaders):
            reactor.removeReader(reader)
            reader.connectionLost(None)
        reactor._internalReaders.clear()
        if hasattr(reactor, "_poller") and hasattr(reactor._poller, "close"):
            reactor._poller.close()
        now = descriptors_of(os.getpid())
        left += sorted(set(now.items()) - set(self._descriptors.items()))
        self.assertEqual([], left)

    @staticmethod
    def _end_processes() -> list[str]:
        left = list(process.reapProcessHandlers)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        process.reapProcessHandlers.clear()
        return [f"process {pid}" for pid in left]


class ReactorTestCase(ReactorMixin, TestCaseInTempDir):
    """A test with a reactor and a directory."""


class FifoTestCase(ReactorTestCase):
    """A test on each kind of reactor, with a FIFO of which it has the far end.

    :ivar lost: the numbers of the ends that were said to be closed.
    """

    scenarios = REACTORS

    def setUp(self) -> None:
        super().setUp()
        self.path = os.path.join(self.test_dir, "fifo")
        os.mkfifo(self.path)
        self.lost: list[int] = []
        self.far = -1
        self.addCleanup(self.close_far)

    def open_fifo(self, flags: int) -> int:
        """Open it, without waiting for anybody."""
        return os.open(self.path, flags | os.O_NONBLOCK)

    def open_far(self, flags: int) -> None:
        """The other side opens its end, which does not block."""
        self.far = self.open_fifo(flags)

    def close_far(self) -> None:
        """The other side closes its end, if it has it open."""
        if self.far >= 0:
            os.close(self.far)
            self.far = -1

    def wait_lost(self, number: int) -> None:
        """Until it is said to be closed; no more than once, even in a while."""
        self.run_until(lambda: self.lost, "it was closed")
        self.turn()
        self.assertEqual([number], self.lost)


class LiveReactorTestCase(ReactorMixin, LiveTestCase):
    """A test with a reactor and, when it has started one, a service."""
