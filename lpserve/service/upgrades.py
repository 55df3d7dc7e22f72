# SPDX-License-Identifier: GPL-2.0-or-later

"""Upgrades the running service: hands over to a successor, takes over from one before.

The same object is on both sides, because a service that has taken over may be upgraded
again while its predecessor still finishes connections.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..codestamp import code_stamp
from ..errors import LpserveError
from ..handover import Handover, SuccessorSpec
from ..paths import RuntimeDirectory
from ..succession import in_parts
from ..systemd import Notifier
from ..wire import FAILED, encode_answer, encode_error
from .accounts import Accounts
from .admission import Admission
from .agent import Agent
from .door import Doors
from .doors import Reply
from .loop import Loop
from .pool import Pool
from .records import Record
from .shutdown import Shutdown
from .socketdoor import SocketDoor
from .streams import KINDS, Streams
from .takeover import FORMAT, Predecessor, Takeover
from .warmer import Warmer

log = logging.getLogger("lpserve")


@dataclass
class Origin:
    """How this process became the service.

    :ivar directory: the runtime directory.
    :ivar version: of lpserve.
    :ivar code: the result of `codestamp.code_stamp`, before the code was read.
    :ivar start: what is handed on as it is: ``umask`` and ``limits``.
    :ivar lock: the descriptor that holds the lock on the runtime directory.
    :ivar successor: how to start a successor.
    :ivar takeover: what it takes over; None if it was started by itself.
    """

    directory: RuntimeDirectory
    version: str
    code: str
    start: dict[str, Any]
    lock: int
    successor: SuccessorSpec
    takeover: Takeover | None = None

    def release_lock(self) -> None:
        """Leave the lock to whoever holds it too."""
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


class Upgrades:
    """See the module.

    :param go: opens the doors that we have taken over.
    :param cannot: called with why we cannot take over any more.
    :param failed: called with why an upgrade has failed.
    :param totals: counts of how connections have ended.
    :ivar predecessors: services that finish their connections.
    :ivar streams: hears of those that they have.
    """

    streams: Streams

    def __init__(
        self,
        loop: Loop,
        origin: Origin,
        socket_door: SocketDoor,
        doors: Doors,
        agent: Agent,
        systemd: Notifier,
        accounts: Accounts,
        admission: Admission,
        pool: Pool,
        warmer: Warmer,
        ending: Shutdown,
        go: Callable[[], None],
        cannot: Callable[[LpserveError], None],
        failed: Callable[[str], None],
        totals: Counter[str],
    ):
        self.predecessors: list[Predecessor] = []
        self._loop = loop
        self._origin = origin
        self._socket_door = socket_door
        self._doors = doors
        self._agent = agent
        self._systemd = systemd
        self._accounts = accounts
        self._admission = admission
        self._pool = pool
        self._warmer = warmer
        self._ending = ending
        self._open_doors = go
        self._cannot = cannot
        self._failed = failed
        self._totals = totals
        self._handover: Handover | None = None
        self._reply = Reply()
        self._again = False
        self._gone = origin.takeover is None
        if origin.takeover is not None:
            link, about = origin.takeover.link, origin.takeover.document
            for pair in [(link, about), *origin.takeover.older]:
                self.predecessors.append(Predecessor(loop, *pair, self))
            self._first = self.predecessors[0]
            # The older ones speak to the first until it has left the doors.
            self._first.listen()
            agent.pause()

    @property
    def waits_for_doors(self) -> bool:
        """Whether a predecessor has the doors still."""
        return not self._gone

    @property
    def is_over(self) -> bool:
        """Whether a successor serves."""
        return self._ending.handed_over

    @property
    def needed(self) -> bool:
        """Whether the code of lpserve is not the one that this process has.

        True also during an upgrade: the successor may have read what has changed
        since, or not.
        """
        return self._handover is not None or code_stamp() != self._origin.code

    def ready(self) -> None:
        """Tell the predecessor that we can serve; `go` follows."""
        self._first.tell("ready", version=self._origin.version)

    def fail(self, why: str) -> None:
        """Tell the predecessor why it has to go on."""
        if not self._gone:
            self._first.tell("failed", text=why)

    # -- to a successor --------------------------------------------------------

    def begin(self, reply: Reply, asked_by: str) -> None:
        """Start a successor; *reply* gets the answer when it serves, or has failed.

        If one is starting already, whoever serves then reloads.
        """
        if self._handover is not None:
            self._again = not self.is_over
            text = "an upgrade is under way; a reload follows it"
            reply.send(encode_error(FAILED, text))
            reply.close()
            return
        log.info("upgrade, asked for by %s", asked_by)
        self._reply = reply
        # What is in memory stays the same until it is passed on.
        self._warmer.stop()
        self._warmer.save()
        try:
            spec = self._origin.successor
            self._handover = Handover(self._loop, spec, self, self._answer)
        except OSError as error:
            self._answer("", f"cannot start a successor: {error.strerror}")

    def _answer(self, version: str, why: str) -> None:
        reply, self._reply = self._reply, Reply()
        pid = os.getpid()
        if why:
            log.error("cannot upgrade: %s", why)
            self._handover = None
            self._warmer.go_on()
            self._failed(why)
        else:
            assert self._handover is not None
            pid = self._handover.pid
            log.info("process %d serves now", pid)
        if self._again:
            self._again = False
            os.kill(pid, signal.SIGHUP)
        reply.send(encode_error(FAILED, why) if why else encode_answer("ok", version))
        reply.close()

    def close(self) -> None:
        """Have nothing more to do with other processes."""
        if self._handover is not None:
            self._handover.close()
        for each in self.predecessors:
            each.close()

    def pack(self) -> tuple[dict[str, Any], list[int]]:
        """See `handover.HandoverControl`."""
        found = [*self._doors.copies(), os.dup(self._origin.lock)]
        document: dict[str, Any] = {
            **self._origin.start,
            "format": FORMAT,
            "pid": os.getpid(),
            "version": self._origin.version,
            "control": 0,
            "socket": 1,
            "lock": 2,
            "lasting": bool(self._doors.lasting),
            "warm": [],
            "older": [],
        }
        for name, number in self._warmer.copies():
            document["warm"].append({"name": name, "file": len(found)})
            found.append(number)
        for each in self.predecessors:
            about, number = each.copy()
            document["older"].append({**about, "link": len(found)})
            found.append(number)
        return document, found

    def leave(self, pid: int, tell: Callable[..., None]) -> None:
        """See `handover.HandoverControl`."""
        self._doors.hand_over()
        self._agent.pause()
        self._systemd.hand_on(pid)
        for some in in_parts(self._accounts.lines()):
            tell("history", lines=some)
        ours = [
            *(each.connection for each in self._pool.busy.values()),
            *self._pool.waiting,
            *self._admission.waiting(),
        ]
        who = [(each.user, each.address) for each in ours if each is not None]
        for some in in_parts(who):
            tell("open", pid=os.getpid(), connections=some)
        for predecessor in self.predecessors:
            predecessor.leave(tell)
        self._accounts.forward = self._forward

    def _forward(self, record: Record, line: str) -> None:
        who = {"user": record.user, "address": record.address, "door": record.door}
        self.tell("ended", line=line, how=record.how, **who)

    def tell(self, kind: str, **fields: Any) -> None:
        """Send the successor a message, if there is one."""
        if self._handover is not None:
            self._handover.tell(kind, **fields)

    def come_back(self) -> None:
        """See `handover.HandoverControl`."""
        self._accounts.forward = None
        for each in self.predecessors:
            each.listen()
        self._systemd.come_back()
        self._doors.take_again()
        self._agent.go_on()

    def asked(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """See `handover.HandoverControl`."""
        if message["kind"] == "adopt" and descriptors:
            self._socket_door.adopt(descriptors.pop(0))

    def handed_over(self) -> None:
        """See `handover.HandoverControl`."""
        for each in self.predecessors:
            each.close()
        self.predecessors.clear()
        self._origin.release_lock()
        self._ending.hand_over()

    def successor_gone(self) -> None:
        """See `handover.HandoverControl`."""

    # -- from a predecessor ----------------------------------------------------

    def go(self) -> None:
        """See `takeover.TakeoverObserver`."""
        self._gone = True
        for each in self.predecessors:
            each.listen()
        self._agent.go_on()
        self._open_doors()

    def stay(self, pid: int, connections: list[list[str]]) -> None:
        """See `takeover.TakeoverObserver`."""
        for each in self.predecessors:
            if each.pid == pid:
                for user, address in connections:
                    each.stays(user, address)

    def take_history(self, lines: list[str]) -> None:
        """See `takeover.TakeoverObserver`."""
        self._accounts.take_over(lines)

    def connection_stays(self, user: str, address: str) -> None:
        """See `takeover.TakeoverObserver`."""
        self._admission.count_in(user, address)

    def connection_gone(self, user: str, address: str) -> None:
        """See `takeover.TakeoverObserver`."""
        self._admission.count_out(user, address)

    def enter(self, line: str, how: str, door: str) -> None:
        """See `takeover.TakeoverObserver`."""
        self._accounts.ended_elsewhere(line, how, door)
        self._totals[how] += 1

    def predecessor_gone(self, predecessor: Predecessor) -> None:
        """See `takeover.TakeoverObserver`."""
        self.predecessors.remove(predecessor)
        if not self._gone and predecessor is self._first:
            text = "cannot take over: the process before this one has ended"
            self._cannot(LpserveError(text))
        self._ending.finish_if_done()

    def handle_message(self, message: dict[str, Any]) -> None:
        """See `takeover.TakeoverObserver`."""
        if message["kind"] in KINDS:
            self.streams.told(message)
        else:
            self._warmer.handle_message(message)

    # -- questions about all connections ---------------------------------------

    def ask(self, words: list[str], answered: Callable[[list[str]], None]) -> None:
        """Ask all predecessors; *answered* gets the answers of those that answer."""
        left, found = len(self.predecessors), []
        if not left:
            answered([])

        def one(answer: str | None) -> None:
            nonlocal left
            left -= 1
            if answer is not None:
                found.append(answer)
            if not left:
                answered(found)

        for each in list(self.predecessors):
            each.ask(words, one)

    def shutdown(self, now: bool) -> None:
        """Have predecessors stop, and the successor that does not serve yet."""
        if self._handover is not None and not self._handover.serving:
            self._handover.give_up()
        self.ask(["shutdown", "now"] if now else ["shutdown"], lambda answers: None)

    def pass_on(self, number: int) -> bool:
        """Send a signal to the service, which a successor is; whether there is one."""
        pid = self._origin.directory.holder()
        if pid in (None, os.getpid()):
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            return True
        return False

    def describe(self) -> list[dict[str, object]]:
        """The predecessors, for ``status``."""
        return [each.describe() for each in self.predecessors]
