# SPDX-License-Identifier: GPL-2.0-or-later

"""A generation: one zygote, as the service sees it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from dataclasses import dataclass, replace
from typing import Any, Protocol

from .. import channel
from ..errors import ZygoteError
from .children import Child, Children, ExitStatus
from .loop import Loop, Timer

#: Seconds that a zygote may take until it is ready.
READY_TIMEOUT = 120.0
#: How many times, this many seconds apart, a zygote that owes an answer may be found
#: silent. Not one length of time: a service that was stopped, starved or suspended
#: itself has not looked, and cannot know.
LOOKS, LOOK_EACH = 10, 1.0


@dataclass(frozen=True)
class LaunchSpec:
    """How a zygote is started.

    :ivar argv: the command, to which the number of its channel is added.
    :ivar environ: its environment.
    :ivar start: the ``start`` message: what a fresh process would have, and in
        ``settings`` what `settings.Settings.for_worker` says.
    """

    argv: tuple[str, ...]
    environ: dict[str, str]
    start: dict[str, Any]

    def using(self, settings: dict[str, Any]) -> LaunchSpec:
        """The same with these settings."""
        return replace(self, start={**self.start, "settings": settings})


class GenerationObserver(Protocol):
    """What a generation tells about itself, and to whom."""

    def zygote_ready(self, generation: Generation) -> None:
        """It can fork."""

    def zygote_ended(self, generation: Generation, why: str) -> None:
        """It is gone, before or after it was ready."""

    def zygote_outdated(self, generation: Generation, why: str) -> None:
        """There should be another one."""

    def forked(self, serial: int, pid: int) -> None:
        """The worker asked for under *serial* is our child *pid*."""

    def fork_failed(self, serial: int, why: str) -> None:
        """There will be no worker for *serial*."""


class Generation:
    """One zygote.

    It answers each `fork`, `load` and `ping`. One that does not is killed, and
    counts as ended at once: what waits in the kernel may take long to die.

    :ivar number: 1, 2, ...: which generation it is.
    :ivar modules: how many modules it has loaded, once it is ready.
    :ivar cold: why its workers have to read everything themselves, if they do.
    :ivar unrehearsed: why its rehearsal failed, if it did.
    :ivar sandbox: what `sandbox.Sandbox.report` says, once it is ready.
    :ivar warnings: what somebody should see to: a line each.
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
        self._loop = loop
        self._children = children
        self._owner = owner
        self._why = ""
        self._retired = self._over = False
        # Answers that it owes; looks since it said something; whether there was no
        # room for a ping.
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
        with contextlib.suppress(OSError):  # dead already: `_ended` tells
            channel.send(self._channel, "start", **launch.start)
        self._channel.setblocking(False)
        loop.watch(self._channel.fileno(), self._read)

    @property
    def pid(self) -> int:
        """The zygote's."""
        return self._child.pid

    def _launch(self, launch: LaunchSpec, theirs: socket.socket) -> Child:
        number = theirs.fileno()
        os.set_inheritable(number, True)
        actions = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0)]
        for each in (1, 2):
            # Closed when we were started, or a file of ours by now.
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
    ) -> None:
        """Ask for workers, each with one of *ends* of channels.

        :param spare: nobody waits for them.
        :raises OSError: if the zygote has gone or does not keep up.
        """
        channel.send(
            self._channel,
            "fork",
            tuple(end.fileno() for end in ends),
            serials=serials,
            spare=spare,
        )
        self._expect(len(serials))

    def load(self, serial: int, end: socket.socket, path: str, room: int) -> None:
        """Ask for a loader of the repository at *path*.

        :param serial: told to the owner as for a worker.
        :param room: how many bytes may be kept.
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
        """Have it show that it lives, if nothing else makes it."""
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
            pass  # it is gone: `_read` sees it

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
        """Have later workers know the repository at *path*.

        :param descriptor: of what was loaded; None: forget it.
        :raises OSError: as `fork`.
        """
        descriptors = () if descriptor is None else (descriptor,)
        channel.send(self._channel, "warm", descriptors, path=path)

    def retire(self) -> None:
        """Let it end: it has no reason to live without its channel."""
        if not self._retired:
            self._retired = True
            self._patience.cancel()
            if self._look is not None:
                self._look.cancel()
            self._loop.forget(self._channel.fileno())
            self._channel.close()
            self._children.let_go(self._child)

    def kill(self, why: str) -> None:
        """End it at once."""
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
                # Nobody else has the other end: it died, or is about to.
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
        # What it was just forking has no channel any more, and may hang as it did.
        self._children.end_group(self.pid)
        if not self._over:
            self._over = True
            self._owner.zygote_ended(self, why)


def _is_inherited(number: int) -> bool:
    try:
        return os.get_inheritable(number)
    except OSError:
        return False
