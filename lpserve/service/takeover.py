# SPDX-License-Identifier: GPL-2.0-or-later

"""Takes over from a running service, and asks it about the connections it finishes.

See `handover` and `succession`. Beside what these send, there are, from the old
service: ``open`` (connections that go on there), ``history``, ``ended``, ``used``,
``stream-made`` and ``stream-used`` (of such a connection). To it: ``adopt`` (with a
connection to the socket, by which we ask as any client does).
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Any, Protocol

from .. import channel
from ..outbox import Outbox
from ..succession import Inheritance, Link, in_parts
from ..systemd import Passed
from .activation import Activation
from .loop import Loop, Timer

log = logging.getLogger("lpserve")

#: Of the document; another one means that an upgrade is a restart.
FORMAT = 1
#: Seconds that a predecessor may take to answer.
ANSWER_TIMEOUT = 5.0
#: The most bytes of an answer.
_LONGEST = 1 << 26


class Takeover(Inheritance):
    """What a service hands over; see `Inheritance`.

    :ivar activation: the doors, and what is in memory.
    :ivar lock: the descriptor that holds the lock on the runtime directory.
    :ivar older: channels to those before it, with their pids and versions.
    """

    def __init__(self, number: int):
        super().__init__(number, FORMAT, "the service")

    def use(self) -> None:
        """See `Inheritance`."""
        document, found = self.document, self.descriptors
        self.lock = found[document["lock"]]
        self.activation = Activation(
            found[document["control"]],
            found[document["socket"]],
            [Passed(each["name"], found[each["file"]]) for each in document["warm"]],
            lasting=document["lasting"],
        )
        self.older = [
            (channel.end_of(found[each["link"]]), each) for each in document["older"]
        ]


class TakeoverObserver(Protocol):
    """What a `Predecessor` tells; see there."""

    def go(self) -> None:
        """The doors are ours."""

    def stay(self, pid: int, connections: list[list[str]]) -> None:
        """These connections (user and address) go on with the process *pid*."""

    def take_history(self, lines: list[str]) -> None:
        """Connections that have ended."""

    def connection_stays(self, user: str, address: str) -> None:
        """A connection goes on with a predecessor."""

    def connection_gone(self, user: str, address: str) -> None:
        """It has ended, or its process."""

    def enter(self, line: str, how: str, door: str) -> None:
        """How one of these has ended; see `accounts.Accounts.ended_elsewhere`."""

    def predecessor_gone(self, predecessor: Predecessor) -> None:
        """It has ended."""

    def handle_message(self, message: dict[str, Any]) -> None:
        """One of its workers has used a repository, or made or used a stream."""


class Predecessor:
    """A service that finishes its connections.

    :ivar pid, version: of it.
    :ivar connections: how many it has.
    """

    def __init__(
        self,
        loop: Loop,
        link: socket.socket,
        about: dict[str, Any],
        owner: TakeoverObserver,
    ):
        self.pid, self.version = int(about["pid"]), str(about["version"])
        self._loop = loop
        self._owner = owner
        self._left: list[tuple[str, str]] = []
        self._link = Link(loop, link, self._handle, self._ended)

    @property
    def connections(self) -> int:
        """How many it has."""
        return len(self._left)

    def describe(self) -> dict[str, object]:
        """What ``status`` says of it."""
        return {
            "pid": self.pid,
            "version": self.version,
            "connections": self.connections,
        }

    def tell(self, kind: str, **fields: Any) -> None:
        """Send it a message."""
        self._link.outbox.send(kind, **fields)

    def listen(self) -> None:
        """Hear what it says."""
        self._link.listen()

    def copy(self) -> tuple[dict[str, Any], int]:
        """For our successor: what `__init__` wants, and a copy of the channel."""
        return {"pid": self.pid, "version": self.version}, self._link.copy()

    def leave(self, tell: Callable[..., None]) -> None:
        """Hear no more of it: our successor does, to *tell* of its connections."""
        self._link.pause()
        for some in in_parts(self._left):
            tell("open", pid=self.pid, connections=some)

    def close(self) -> None:
        """Have nothing more to do with it."""
        self._link.close()

    # -- what it says ----------------------------------------------------------

    def _handle(self, message: dict[str, Any], descriptors: list[int]) -> None:
        kind = message["kind"]
        if kind == "open":
            self._owner.stay(message["pid"], message["connections"])
        elif kind == "history":
            self._owner.take_history(message["lines"])
        elif kind == "go":
            self._owner.go()
            self.tell("serving")
        elif kind == "ended":
            who = message["user"], message["address"]
            if who in self._left:
                self._left.remove(who)
                self._owner.connection_gone(*who)
            self._owner.enter(message["line"], message["how"], message["door"])
        elif kind in ("used", "stream-made", "stream-used"):
            self._owner.handle_message(message)

    def stays(self, user: str, address: str) -> None:
        """It serves this connection."""
        self._left.append((user, address))
        self._owner.connection_stays(user, address)

    def _ended(self) -> None:
        for user, address in self._left:
            self._owner.connection_gone(user, address)
        self._owner.predecessor_gone(self)

    # -- what it is asked ------------------------------------------------------

    def ask(self, words: list[str], answered: Callable[[str | None], None]) -> None:
        """Ask it as any client does.

        :param words: of the request; none has a blank.
        :param answered: called once, with the word after ``ok``; with None if it has
            ended, does not answer, or cannot be asked.
        """
        try:
            _Question(self._loop, self._link.outbox, " ".join(words), answered)
        except OSError:  # no descriptor is free
            self._loop.call_later(0, lambda: answered(None))


class _Question:
    """One request to a predecessor, by a connection of its own."""

    def __init__(
        self,
        loop: Loop,
        outbox: Outbox,
        request: str,
        answered: Callable[[str | None], None],
    ):
        self._loop = loop
        self._answered = answered
        self._received = b""
        self._ours, theirs = socket.socketpair()
        outbox.send("adopt", (theirs.detach(),))
        self._ours.setblocking(False)
        with contextlib.suppress(BrokenPipeError):  # it has ended: so `_read` finds
            self._ours.send(request.encode() + b"\n")  # there is room in a new socket
        self._patience: Timer = loop.call_later(ANSWER_TIMEOUT, self._end)
        loop.watch(self._ours.fileno(), self._read)

    def _read(self) -> None:
        try:
            while data := self._ours.recv(1 << 16):
                self._received += data
                if b"\n" in data or len(self._received) > _LONGEST:
                    break
            self._end()
        except BlockingIOError:
            return
        except OSError:
            self._end()

    def _end(self) -> None:
        self._patience.cancel()
        self._loop.forget(self._ours.fileno())
        self._ours.close()
        line, _, _ = self._received.partition(b"\n")
        self._answered(_word_of(line.decode("utf-8", "surrogateescape")))


def _word_of(answer: str) -> str | None:
    """The word after ``ok``; `shlex.split` would take too long for a list."""
    word = answer.removeprefix("ok ")
    if word == answer:
        return None
    if word[:1] == word[-1:] == "'" and len(word) > 1:
        return word[1:-1].replace("'\"'\"'", "'")  # as `shlex.quote` quotes it
    return word
