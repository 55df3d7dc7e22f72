# SPDX-License-Identifier: GPL-2.0-or-later

"""A front that has handed over, as its successor sees it.

See `handover` and `succession`. Beside what these send, there are, from the old front:
``state`` (with a file; see `upgrades`), then of a client that has not logged in, with
its source: ``began``, ``logged-in``, ``lost``; ``dropped`` (one that was not admitted),
``count`` (how many connections and sessions there are), ``follows`` (there is none any
more, and it waits for us), ``signal`` (that it was sent). To it: ``stop`` and ``cut``,
and ``over`` when all have ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections import Counter
from typing import Any, Protocol

from .. import channel
from ..outbox import Loop
from ..succession import Inheritance, Link, read_document
from .limits import Limits

#: Of the document and of the state; another one means that an upgrade is a restart.
FORMAT = 1


class Takeover(Inheritance):
    """What a front hands over; see `Inheritance`.

    :ivar socket: which listens.
    :ivar listen: where it was to listen, as an address and a port.
    :ivar older: channels to those before it, with their pids and versions.
    """

    def __init__(self, number: int):
        super().__init__(number, FORMAT, "lp-serve-ssh")

    def use(self) -> None:
        """See `Inheritance`."""
        document, found = self.document, self.descriptors
        self.socket = socket.socket(fileno=found[document["socket"]])
        host, port = document["listen"]
        self.listen = str(host), int(port)
        self.older = [
            (channel.end_of(found[each["link"]]), each) for each in document["older"]
        ]


class PredecessorOwner(Protocol):
    """What a `Predecessor` tells; see there."""

    def take_state(self, state: dict[str, Any]) -> None:
        """Go on with this; see `upgrades`."""

    def go(self) -> None:
        """The socket is ours."""

    def note(self, kind: str, fault: str, host: str) -> None:
        """See `gate.Gate.note`."""

    def signalled(self, number: int, origin: int) -> None:
        """The predecessor *origin* was sent a signal that is for us."""

    def predecessor_over(self) -> None:
        """One has no connection any more."""

    def predecessor_gone(self, predecessor: Predecessor) -> None:
        """It has ended."""


class Predecessor:
    """A front that finishes its connections.

    :param limits: count those of its clients that have not logged in.
    :param about: its ``pid`` and ``version``.
    :ivar connections, sessions: how many it has.
    :ivar follows: whether it has none any more, and ends with us.
    """

    def __init__(
        self,
        loop: Loop,
        link: socket.socket,
        about: dict[str, Any],
        limits: Limits,
        owner: PredecessorOwner,
    ):
        self.pid, self.version = int(about["pid"]), str(about["version"])
        self.connections = self.sessions = 0
        self.follows = False
        self._limits = limits
        self._owner = owner
        self._entering: Counter[bytes] = Counter()
        self._link = Link(loop, link, self._handle, self._ended)

    def listen(self) -> None:
        """Hear what it says."""
        self._link.listen()

    def pause(self) -> None:
        """Hear no more of it: our successor does."""
        self._link.pause()

    def tell(self, kind: str, **fields: Any) -> None:
        """Send it a message."""
        self._link.outbox.send(kind, **fields)

    def copy(self) -> tuple[dict[str, Any], int]:
        """For our successor: its pid and version, and a copy of the channel."""
        return {"pid": self.pid, "version": self.version}, self._link.copy()

    def describe(self) -> dict[str, Any]:
        """For our successor: what `take` wants."""
        found = describe(self.pid, self._entering, self.connections, self.sessions)
        return {**found, "follows": self.follows}

    def take(self, found: dict[str, Any]) -> None:
        """Go on with what `describe` has returned."""
        self.connections = int(found["connections"])
        self.sessions = int(found["sessions"])
        self.follows = bool(found["follows"])
        for source, count in found["entering"].items():
            for _ in range(count):
                self._begin(bytes.fromhex(source))

    def kill(self) -> None:
        """Kill it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Have nothing more to do with it; its clients are not counted any more."""
        self._link.close()
        for source in self._entering.elements():
            self._limits.end(source)
        self._entering.clear()

    def _begin(self, source: bytes) -> None:
        self._limits.begin_source(source)
        self._entering[source] += 1

    def _handle(self, message: dict[str, Any], descriptors: list[int]) -> None:
        kind = message["kind"]
        if kind == "state" and descriptors:
            self._owner.take_state(read_document(descriptors.pop(0)))
        elif kind == "go":
            self._owner.go()
            self.tell("serving")
        elif kind == "count":
            self.connections = int(message["connections"])
            self.sessions = int(message["sessions"])
        elif kind == "follows":
            self.follows = True
            self._owner.predecessor_over()
        elif kind == "signal":
            self._owner.signalled(message["number"], self.pid)
        elif kind == "began":
            self._begin(bytes.fromhex(message["source"]))
        elif kind in ("logged-in", "lost", "dropped"):
            source = bytes.fromhex(message["source"])
            if self._entering[source]:
                self._entering[source] -= 1
                self._limits.end(source)
            self._owner.note(kind, message["fault"], message["host"])

    def _ended(self) -> None:
        self.close()
        self._owner.predecessor_gone(self)


def describe(
    pid: int, entering: Counter[bytes], connections: int, sessions: int
) -> dict[str, Any]:
    """What `Predecessor.take` wants, of a front."""
    found = {source.hex(): count for source, count in entering.items() if count}
    return {
        "pid": pid,
        "entering": found,
        "connections": connections,
        "sessions": sessions,
        "follows": False,
    }
