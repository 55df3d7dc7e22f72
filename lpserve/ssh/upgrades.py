# SPDX-License-Identifier: GPL-2.0-or-later

"""Upgrades the running front: hands over to a successor, takes over from one before.

The same object is on both sides, because a front that has taken over may be upgraded
again while its predecessor still finishes connections.

The state that is handed over when the successor is ready is JSON: ``figures``
(`figures.Figures.pack`), ``penalties`` (`limits.Limits.pack`) and ``fronts``
(`predecessor.describe`: this one, and those before it).
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from .. import system
from ..codestamp import LoadedCode
from ..conch.fifos import DescriptorWatcher, close_soon
from ..errors import LpserveError
from ..handover import Handover, SuccessorSpec, write_document
from ..systemd import Notifier
from .gate import Gate
from .listening import Listener
from .predecessor import FORMAT, Predecessor, Takeover, describe
from .reactorloop import ReactorLoop

log = logging.getLogger("lpserve")


@dataclass
class Origin:
    """How this process became the front.

    :ivar version: of lpserve.
    :ivar successor: how to start a successor.
    :ivar listen: where it was to listen, as an address and a port.
    :ivar takeover: what it takes over; None if it was started by itself.
    """

    version: str
    successor: SuccessorSpec
    listen: tuple[str, int]
    takeover: Takeover | None = None


class UpgradeControl(Protocol):
    """The front; see `Upgrades`."""

    def counts(self) -> tuple[int, int]:
        """How many connections and sessions this process has."""

    def go(self) -> None:
        """Serve: the socket is ours."""

    def failed(self, why: str) -> None:
        """We cannot take over any more."""

    def leave(self) -> None:
        """Accept no more connections for now."""

    def come_back(self) -> None:
        """Accept them again."""

    def upgrade_failed(self, why: str) -> None:
        """No successor serves; everything is as before."""

    def handed_over(self) -> None:
        """The successor serves: end when no connection is left."""

    def successor_gone(self, well: bool) -> None:
        """The successor has ended: *well*, if all the others have too."""

    def signalled(self, number: int, origin: int = 0) -> None:
        """Do what a signal asks for, which was sent to us or to a predecessor."""

    def told_to_stop(self) -> None:
        """Let the sessions finish."""

    def told_to_cut(self, why: str) -> None:
        """Abort all connections."""

    def predecessor_over(self) -> None:
        """A predecessor has no connection any more."""


class Upgrades:
    """See the module.

    :ivar predecessors: fronts that finish connections, or follow.
    """

    def __init__(
        self,
        reactor: Any,
        origin: Origin,
        front: UpgradeControl,
        gate: Gate,
        listener: Listener,
        systemd: Notifier,
    ):
        self.predecessors: list[Predecessor] = []
        self._reactor = reactor
        self._loop = ReactorLoop(reactor)
        self._origin = origin
        self._front = front
        self._gate = gate
        self._listener = listener
        self._systemd = systemd
        self._code = LoadedCode()
        self._handover: Handover | None = None
        self._left = self._lost = self._given_up = self._all_over = False
        # Between leave and the successor's answer: what it is told, signals.
        self._untold: list[tuple[str, dict[str, Any]]] = []
        self._held: list[int] = []
        self._gone = origin.takeover is None
        if origin.takeover is not None:
            link, about = origin.takeover.link, origin.takeover.document
            for pair in [(link, about), *origin.takeover.older]:
                made = Predecessor(self._loop, *pair, gate.limits, self)
                self.predecessors.append(made)
            self._first = self.predecessors[0]
            # The older ones speak to the first until it has left the socket.
            self._first.listen()

    @property
    def waits_for_socket(self) -> bool:
        """Whether a predecessor has the socket still."""
        return not self._gone

    @property
    def has_left(self) -> bool:
        """Whether a successor has the socket, or is about to."""
        return self._left

    @property
    def needed(self) -> bool:
        """Whether code that this process has loaded is not what is installed."""
        return self._code.has_changed()

    @property
    def _follows(self) -> bool:
        """Whether this process stays until the last of its successors has ended.

        Whoever has started the first of us waits for it, and sends signals to it: a
        shell, a container, a supervisor. Systemd knows the successor by itself.
        """
        return self._origin.takeover is None and not os.environ.get("NOTIFY_SOCKET")

    @property
    def connections(self) -> int:
        """How many the predecessors have."""
        return sum(each.connections for each in self.predecessors)

    @property
    def sessions(self) -> int:
        """How many the predecessors have."""
        return sum(each.sessions for each in self.predecessors)

    @property
    def unfinished(self) -> bool:
        """Whether a predecessor has connections."""
        return not all(each.follows for each in self.predecessors)

    def ready(self) -> None:
        """Tell the predecessor that we can serve; `go` follows."""
        self._first.tell("ready", version=self._origin.version)

    # -- to a successor --------------------------------------------------------

    def begin(self, asked_by: str) -> None:
        """Start a successor."""
        log.info("upgrade, asked for by %s", asked_by)
        self._given_up = False
        try:
            system.check_platform()
            spec = self._origin.successor
            self._handover = Handover(self._loop, spec, self, self._answer)
        except OSError as error:
            self._answer("", f"cannot start a successor: {error.strerror}")
        except LpserveError as error:
            self._answer("", str(error))
        else:
            _Child(self._reactor, self._handover.pid)

    def _answer(self, version: str, why: str) -> None:
        if self._handover is not None and not why:
            log.info("process %d serves now", self._handover.pid)
            return
        self._handover = None
        if not self._given_up:
            log.error("cannot upgrade: %s", why)
            self._front.upgrade_failed(why)
        held, self._held = self._held, []
        for number in held:
            self._front.signalled(number)

    def pass_on(self, number: int) -> bool:
        """Whether a signal is not, or not yet, for this process."""
        handover = self._handover
        if handover is None or self._lost:
            return False
        if handover.serving and self._follows:
            handover.tell("signal", number=number)
        elif handover.serving:
            # Who sends it knows the successor: a stop is for our sessions.
            return number in (signal.SIGHUP, signal.SIGUSR2)
        elif handover.left or number == signal.SIGHUP:
            self._held.append(number)  # until it is known who serves
        elif number == signal.SIGUSR2:
            log.warning("an upgrade is under way")
        else:
            self._given_up = True
            handover.give_up()
            return False
        return True

    def pack(self) -> tuple[dict[str, Any], list[int]]:
        """See `handover.HandoverControl`."""
        found: list[int] = []
        document: dict[str, Any] = {
            "format": FORMAT,
            "pid": os.getpid(),
            "version": self._origin.version,
            "listen": self._origin.listen,
            "socket": 0,
            "older": [],
        }
        try:
            found.append(self._listener.copy())
            for each in self.predecessors:
                about, number = each.copy()
                document["older"].append({**about, "link": len(found)})
                found.append(number)
        except OSError:
            for number in found:
                os.close(number)
            raise
        return document, found

    def leave(self, pid: int, tell: Callable[..., None]) -> None:
        """See `handover.HandoverControl`."""
        ours = describe(os.getpid(), self._gate.entering(), *self._front.counts())
        state = {
            "figures": self._gate.figures.pack(),
            "penalties": self._gate.limits.pack(time.monotonic()),
            "fronts": [ours, *(each.describe() for each in self.predecessors)],
        }
        tell("state", (write_document(state),))
        self._left = True
        self._gate.tell = self._keep
        for each in self.predecessors:
            each.pause()
        self._front.leave()
        self._systemd.hand_on(pid)

    def _keep(self, kind: str, **fields: Any) -> None:
        self._untold.append((kind, fields))

    def come_back(self) -> None:
        """See `handover.HandoverControl`."""
        self._left = False
        self._gate.tell = None
        untold, self._untold = self._untold, []
        for kind, fields in untold:
            if kind != "began":
                self._gate.note(kind, fields["fault"], fields["host"])
        for each in self.predecessors:
            each.listen()
        self._systemd.come_back()
        self._front.come_back()

    def asked(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """See `handover.HandoverControl`."""
        kind = message["kind"]
        if kind == "stop":
            self._front.told_to_stop()
        elif kind == "cut":
            self._front.told_to_cut(message["why"])
        elif kind == "over":
            self._all_over = True

    def handed_over(self) -> None:
        """See `handover.HandoverControl`."""
        assert self._handover is not None
        for each in self.predecessors:
            each.close()
        self.predecessors.clear()
        tell = self._gate.tell = self._handover.tell
        for kind, fields in self._untold:
            tell(kind, **fields)
        held, self._untold, self._held = self._held, [], []
        self.tell_counts()
        self._front.handed_over()
        for number in held:
            # What came meanwhile, systemd had for us.
            tell("signal", number=number)

    def tell_counts(self) -> None:
        """Tell the successor, if there is one, how many connections we have."""
        if self._handover is not None and self._handover.serving:
            connections, sessions = self._front.counts()
            self._handover.tell("count", connections=connections, sessions=sessions)

    def follow(self) -> bool:
        """Stay without connections until the successor has ended; whether we do."""
        if self._handover is None or self._lost or not self._handover.serving:
            return False
        if not self._follows:
            return False
        system.set_title("lp-ssh-before")
        self._handover.tell("follows")
        return True

    def successor_gone(self) -> None:
        """See `handover.HandoverControl`."""
        self._lost = True
        self._front.successor_gone(self._all_over)

    # -- from a predecessor ----------------------------------------------------

    def take_state(self, state: dict[str, Any]) -> None:
        """See `predecessor.PredecessorOwner`."""
        self._gate.figures.take(state["figures"])
        self._gate.limits.take(state["penalties"])
        by_pid = {each["pid"]: each for each in state["fronts"]}
        for each in self.predecessors:
            if each.pid in by_pid:
                each.take(by_pid[each.pid])

    def go(self) -> None:
        """See `predecessor.PredecessorOwner`."""
        self._gone = True
        for each in self.predecessors:
            each.listen()
        self._front.go()

    def note(self, kind: str, fault: str, host: str) -> None:
        """See `predecessor.PredecessorOwner`."""
        self._gate.note(kind, fault, host)

    def signalled(self, number: int, origin: int) -> None:
        """See `predecessor.PredecessorOwner`."""
        self._front.signalled(number, origin)

    def predecessor_over(self) -> None:
        """See `predecessor.PredecessorOwner`."""
        self._front.predecessor_over()

    def predecessor_gone(self, predecessor: Predecessor) -> None:
        """See `predecessor.PredecessorOwner`."""
        self.predecessors.remove(predecessor)
        if not self._gone:
            text = "cannot take over: the process before this one has ended"
            self._front.failed(text)
        self._front.predecessor_over()

    def tell(self, kind: str, **fields: Any) -> None:
        """Send all predecessors a message, if the socket is ours."""
        for each in self.predecessors if self._gone else ():
            each.tell(kind, **fields)

    def kill(self) -> None:
        """Kill the predecessors that have connections."""
        for each in self.predecessors if self._gone else ():
            if not each.follows:
                each.kill()


class _Child:
    """A successor, which is our child: reaped when it has ended."""

    def __init__(self, reactor: Any, pid: int):
        self._reactor = reactor
        self._pid = pid
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError:
            return  # no descriptor is free: it is reaped when we end
        self._watcher = DescriptorWatcher(reactor, self._pidfd, self._reap)

    def _reap(self) -> None:
        self._watcher.stop()
        os.waitpid(self._pid, os.WNOHANG)
        close_soon(self._reactor, self._pidfd)
