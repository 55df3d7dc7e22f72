# SPDX-License-Identifier: GPL-2.0-or-later

"""A generation is one zygote: starts it, asks it to fork, pings it, kills it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from dataclasses import dataclass, replace
from typing import Any, Protocol

from .. import channel
from ..errors import ZygoteError
from .children import Child, Children, ExitStatus
from .loop import Loop, Timer

#: Seconds that a zygote may take until it is ready.
READY_TIMEOUT = 120.0
#: How many checks, and how many seconds apart, may find that a zygote has not sent
#: anything while it owes an answer. Checks are counted, and not time alone, because
#: the service itself may have been stopped or suspended.
LOOKS, LOOK_EACH = 10, 1.0


@dataclass(frozen=True)
class LaunchSpec:
    """How a zygote is started.

    :ivar argv: the command; the number of the channel's descriptor is appended.
    :ivar environ: the environment of the zygote.
    :ivar start: the ``start`` message: the state that a fresh process would have, and
        in ``settings`` the result of `settings.Settings.for_worker`.
    :ivar board: the descriptor of the scoreboard, sent with ``start``; -1: none.
    """

    argv: tuple[str, ...]
    environ: dict[str, str]
    start: dict[str, Any]
    board: int = -1

    def using(self, settings: dict[str, Any], board: int = -1) -> LaunchSpec:
        """A copy with these settings, and this scoreboard."""
        return replace(self, start={**self.start, "settings": settings}, board=board)


class GenerationObserver(Protocol):
    """Receives the events of a `Generation`."""

    def zygote_ready(self, generation: Generation) -> None:
        """The zygote is ready to fork."""

    def zygote_ended(self, generation: Generation, why: str) -> None:
        """The zygote has ended, before or after it was ready."""

    def zygote_outdated(self, generation: Generation, why: str) -> None:
        """The zygote should be replaced."""

    def forked(self, serial: int, pid: int) -> None:
        """The zygote has forked *serial*, which is our child *pid*."""

    def fork_failed(self, serial: int, why: str) -> None:
        """The zygote could not fork *serial*."""


class Generation:
    """One zygote.

    It answers each `fork`, `load` and `ping`. A zygote that does not is killed. It
    counts as ended at once, because a process that waits in the kernel may take long
    to die.

    :ivar number: 1, 2, ..., in the order of their start.
    :ivar breezy: the version of Breezy that it has loaded, once it is ready.
    :ivar ready_since: when it became ready, in seconds of `time.monotonic`.
    :ivar modules: how many modules it has loaded, once it is ready.
    :ivar cold: why its workers cannot use repositories in memory; "" if they can.
    :ivar unrehearsed: why its rehearsal failed; "" if it did not.
    :ivar sandbox: the result of `sandbox.Sandbox.report`, once it is ready.
    :ivar warnings: what an administrator should correct, a line each.
    """

    def __init__(
        self,
        number: int,
        loop: Loop,
        children: Children,
        launch: LaunchSpec,
        owner: GenerationObserver,
    ):
        self.number = number
        self.modules = 0
        self.cold = self.unrehearsed = ""
        self.sandbox: dict[str, Any] = {}
        self.warnings: list[str] = []
        self.ready = False
        self.ready_since = 0.0
        self.breezy = ""
        self._loop = loop
        self._children = children
        self._owner = owner
        self._why = ""
        self._retired = self._over = False
        # The answers that it owes; the checks since its last message; whether the
        # channel was full at the last ping.
        self._owed = self._silent = 0
        self._unsent = False
        self._look: Timer | None = None
        self._channel, theirs = channel.pair()
        try:
            self._child = self._launch(launch, theirs)
        except OSError as error:
            self._channel.close()
            raise ZygoteError(f"cannot start a zygote: {error.strerror}") from None
        finally:
            theirs.close()
        self._patience = loop.call_later(READY_TIMEOUT, self._overdue)
        with contextlib.suppress(OSError):  # it has ended: `_ended` reports why
            board = () if launch.board < 0 else (launch.board,)
            channel.send(self._channel, "start", board, **launch.start)
        self._channel.setblocking(False)
        loop.watch(self._channel.fileno(), self._read)

    @property
    def pid(self) -> int:
        """The pid of the zygote."""
        return self._child.pid

    def _launch(self, launch: LaunchSpec, theirs: socket.socket) -> Child:
        number = theirs.fileno()
        os.set_inheritable(number, True)
        actions = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0)]
        for each in (1, 2):
            # It was closed when we were started; we may have opened a file there.
            if not _is_inherited(each):
                actions.append((os.POSIX_SPAWN_OPEN, each, os.devnull, os.O_RDWR, 0))
        pid = os.posix_spawn(
            launch.argv[0],
            [*launch.argv, str(number)],
            launch.environ,
            file_actions=actions,
            setsigmask=[],
            setsigdef=[signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD],
        )
        return self._children.add(pid, self._ended)

    def fork(
        self,
        serials: list[int],
        ends: list[socket.socket],
        spare: bool,
        slots: list[int],
    ) -> None:
        """Request workers.

        :param serials: a number for each worker, for the answer.
        :param ends: of a channel for each worker.
        :param spare: whether no connection waits for them.
        :param slots: of the scoreboard, one for each worker; -1: it has none.
        :raises OSError: if the zygote has ended, or its channel is full.
        """
        channel.send(
            self._channel,
            "fork",
            tuple(end.fileno() for end in ends),
            serials=serials,
            spare=spare,
            slots=slots,
        )
        self._expect(len(serials))

    def load(self, serial: int, end: socket.socket, path: str, room: int) -> None:
        """Request a loader for the repository at *path*.

        :param serial: a number for the answer, as for a worker.
        :param end: of a channel for the loader.
        :param room: the most bytes that may be kept.
        :raises OSError: as `fork`.
        """
        channel.send(
            self._channel,
            "load",
            (end.fileno(),),
            serials=[serial],
            path=path,
            room=room,
        )
        self._expect(1)

    def ping(self) -> None:
        """Send a ping, unless the zygote owes an answer anyway."""
        if self.ready and not self._owed and not self._retired:
            self._send_ping()
            self._expect(1)

    def _send_ping(self) -> None:
        self._unsent = False
        try:
            channel.send(self._channel, "ping")
        except BlockingIOError:
            self._unsent = True
        except OSError:
            pass  # it has ended: `_read` notices

    def _expect(self, answers: int) -> None:
        self._owed += answers
        if self._look is None:
            self._silent = 0
            self._look = self._loop.call_later(LOOK_EACH, self._look_now)

    def _look_now(self) -> None:
        self._look = None
        if not self._owed or self._retired:
            return
        self._silent += 1
        if self._silent > LOOKS:
            self._give_up(f"it has not answered for {LOOKS * LOOK_EACH:.0f} s")
            return
        if self._unsent:
            self._send_ping()
        self._look = self._loop.call_later(LOOK_EACH, self._look_now)

    def keep(self, path: str, descriptor: int | None) -> None:
        """Send the zygote the repository at *path*, for the workers that it forks.

        :param descriptor: of the file that a loader made; None: drop the repository.
        :raises OSError: as `fork`.
        """
        descriptors = () if descriptor is None else (descriptor,)
        channel.send(self._channel, "warm", descriptors, path=path)

    def give_access(self, descriptor: int, **facts: Any) -> None:
        """Have later workers go by access rules; see `accessfile.AccessFile.take`.

        :param descriptor: of their text.
        :raises OSError: as `fork`.
        """
        channel.send(self._channel, "access", (descriptor,), **facts)

    def retire(self) -> None:
        """Close its channel, at which the zygote exits."""
        if not self._retired:
            self._retired = True
            self._patience.cancel()
            if self._look is not None:
                self._look.cancel()
            self._loop.forget(self._channel.fileno())
            self._channel.close()
            self._children.let_go(self._child)

    def kill(self, why: str) -> None:
        """Kill the zygote; *why* is reported when it has ended."""
        self._why = why
        self._child.signal(signal.SIGKILL)

    def _overdue(self) -> None:
        self._give_up(f"not ready after {READY_TIMEOUT:.0f} s")

    def _give_up(self, why: str) -> None:
        self.kill(why)
        self.retire()
        self._report_end(why)

    def _read(self) -> None:
        while not self._retired:
            try:
                message, _ = channel.receive(self._channel)
            except BlockingIOError:
                return
            if message is None:
                # No other process has that end: the zygote has ended, or is about to.
                self._loop.forget(self._channel.fileno())
                self._channel.close()
                self._retired = True
                self._child.signal(signal.SIGKILL)
                return
            self._handle_message(message)

    def _handle_message(self, message: dict[str, Any]) -> None:
        kind = message["kind"]
        self._silent = 0
        if kind in ("forked", "fork-failed", "pong"):
            self._owed -= 1
        if kind == "forked":
            self._owner.forked(message["serial"], message["pid"])
        elif kind == "fork-failed":
            self._owner.fork_failed(message["serial"], message["text"])
        elif kind == "outdated":
            self._owner.zygote_outdated(self, message["text"])
        elif kind == "failed":
            self._why = message["text"]
        elif kind == "ready":
            if message["version"] != channel.VERSION:
                self.kill("another version of lpserve is installed now; restart")
                return
            self._patience.cancel()
            self.ready = True
            self.ready_since = time.monotonic()
            self.breezy = str(message.get("breezy", ""))
            self.modules = message["modules"]
            self.cold = message["cold"]
            self.unrehearsed = message.get("unrehearsed", "")
            self.sandbox = message["sandbox"]
            self.warnings = message["warnings"]
            self._owner.zygote_ready(self)

    def _ended(self, end: ExitStatus) -> None:
        self.retire()
        self._report_end(self._why or f"it ended with {end}")

    def _report_end(self, why: str) -> None:
        # An incomplete fork has no channel, and may hang.
        self._children.end_group(self.pid)
        if not self._over:
            self._over = True
            self._owner.zygote_ended(self, why)


def _is_inherited(number: int) -> bool:
    try:
        return os.get_inheritable(number)
    except OSError:
        return False
