# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""A generation: one zygote, as the service sees it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from dataclasses import dataclass
from typing import Any, Protocol

from . import channel
from .children import Child, Children, End
from .errors import ZygoteError
from .loop import Loop

#: Seconds that a zygote may take until it is ready.
READY_TIMEOUT = 120.0


@dataclass(frozen=True)
class Launch:
    """How a zygote is started.

    :ivar argv: the command, to which the number of its channel is added.
    :ivar environ: its environment.
    :ivar start: the ``start`` message: what a fresh process would have.
    """

    argv: tuple[str, ...]
    environ: dict[str, str]
    start: dict[str, Any]


class Owner(Protocol):
    """What a generation tells about itself, and to whom."""

    def zygote_ready(self, generation: Generation) -> None:
        """It can fork."""

    def zygote_ended(self, generation: Generation, why: str) -> None:
        """It is gone, before or after it was ready."""

    def forked(self, serial: int, pid: int) -> None:
        """The worker asked for under *serial* is our child *pid*."""

    def fork_failed(self, serial: int, why: str) -> None:
        """There will be no worker for *serial*."""


class Generation:
    """One zygote.

    :ivar number: 1, 2, ...: which generation it is.
    :ivar modules: how many modules it has loaded, once it is ready.
    :ivar cold: why its workers have to read everything themselves, if they do.
    """

    def __init__(
        self, number: int, loop: Loop, children: Children, launch: Launch, owner: Owner
    ):
        self.number = number
        self.modules = 0
        self.cold = ""
        self.ready = False
        self._loop = loop
        self._children = children
        self._owner = owner
        self._why = ""
        self._retired = False
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

    def _launch(self, launch: Launch, theirs: socket.socket) -> Child:
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
        settings: dict[str, Any],
    ) -> None:
        """Ask for workers, each with one of *ends* of channels.

        :param spare: nobody waits for them.
        :param settings: what `options.Settings.for_worker` says.
        :raises OSError: if the zygote has gone or does not keep up.
        """
        channel.send(
            self._channel,
            "fork",
            tuple(end.fileno() for end in ends),
            serials=serials,
            spare=spare,
            settings=settings,
        )

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
            self._loop.forget(self._channel.fileno())
            self._channel.close()
            self._children.let_go(self._child)

    def kill(self, why: str) -> None:
        """End it at once."""
        self._why = why
        self._child.signal(signal.SIGKILL)

    def _overdue(self) -> None:
        self.kill(f"not ready after {READY_TIMEOUT:.0f} s")

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
            self._heard(message)

    def _heard(self, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if kind == "forked":
            self._owner.forked(message["serial"], message["pid"])
        elif kind == "fork-failed":
            self._owner.fork_failed(message["serial"], message["text"])
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
            self._owner.zygote_ready(self)

    def _ended(self, end: End) -> None:
        self.retire()
        self._owner.zygote_ended(self, self._why or f"it ended with {end}")


def _is_inherited(number: int) -> bool:
    try:
        return os.get_inheritable(number)
    except OSError:
        return False
