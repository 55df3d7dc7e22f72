# SPDX-License-Identifier: GPL-2.0-or-later

"""Hands over to a successor: a new process, which has new code.

The old process goes on until the new one says that it is ready. Then it leaves the
doors, so that who comes next waits in them for the new one, and serves to its end what
it has. `succession` is the other side.

The two talk by a channel (see `channel`). To the successor: ``document`` (with a file
in memory: JSON, which names its format), ``descriptors`` (those that the document
names, in its order), and ``go``. From it: ``ready``, ``failed``, ``serving``.
`service.takeover` and `ssh.predecessor` say what else there is.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from . import channel
from .outbox import Loop, Outbox, Timer

log = logging.getLogger("lpserve")

#: Seconds that a successor may take until it is ready, and until it has the doors.
READY_TIMEOUT, GO_TIMEOUT = 120.0, 10.0


@dataclass(frozen=True)
class SuccessorSpec:
    """How to start a successor.

    :ivar argv: the command line, but for the option with the channel.
    """

    argv: tuple[str, ...]
    environ: dict[str, str]


class HandoverControl(Protocol):
    """What a process hands over; see `Handover`."""

    def pack(self) -> tuple[dict[str, Any], list[int]]:
        """The document, with its ``format``; copies of the descriptors it names."""

    def leave(self, pid: int, tell: Callable[..., None]) -> None:
        """Leave the doors to the process *pid*, and *tell* it what stays here.

        :raises OSError: if that cannot be; nothing has changed then.
        """

    def come_back(self) -> None:
        """Take the doors again: the successor has gone before it had them."""

    def asked(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """Do what the successor asks for. What is left in *descriptors* is closed."""

    def handed_over(self) -> None:
        """The successor serves: end when nothing is left to do."""

    def successor_gone(self) -> None:
        """The successor has served, and has ended."""


class Handover:
    """One attempt to hand over.

    :param answer: called once: with the version of the successor and "", or with ""
        and why there is none.
    :ivar pid: of the successor.
    :ivar left: whether the doors are left to it.
    :ivar serving: whether it serves, or has.
    :raises OSError: if it cannot be started.
    """

    def __init__(
        self,
        loop: Loop,
        spec: SuccessorSpec,
        service: HandoverControl,
        answer: Callable[[str, str], None],
    ):
        self.left = self.serving = False
        self._loop = loop
        self._service = service
        self._answer = answer
        self._version = self._why = ""
        self._over = False
        with contextlib.ExitStack() as on_failure:
            document, descriptors = service.pack()
            for each in descriptors:
                on_failure.callback(os.close, each)
            self._link, theirs = channel.pair()
            on_failure.callback(self._link.close)
            with theirs:
                self.pid, self._pidfd = _spawn(spec, theirs)
            on_failure.pop_all()
        self._link.setblocking(False)
        self._outbox = Outbox(loop, self._link)
        self._patience: Timer = loop.call_later(READY_TIMEOUT, self._overdue)
        loop.watch(self._link.fileno(), self._read)
        self._send_document(document, descriptors)

    def _send_document(
        self, document: dict[str, Any], descriptors: Sequence[int]
    ) -> None:
        count = len(descriptors)
        self._outbox.send("document", (write_document(document),), count=count)
        most = channel.MAX_DESCRIPTORS
        for start in range(0, len(descriptors), most):
            some = tuple(descriptors[start : start + most])
            self._outbox.send("descriptors", some)

    # -- what the successor says -----------------------------------------------

    def _read(self) -> None:
        for message, descriptors in channel.receive_all(self._link):
            if message is None:
                self._ended()
            else:
                self._handle(message, descriptors)
            for each in descriptors:
                os.close(each)

    def _handle(self, message: dict[str, Any], descriptors: list[int]) -> None:
        kind = message["kind"]
        if kind == "ready" and not self.left:
            self._version = str(message.get("version"))
            self._leave()
        elif kind == "failed":
            self._why = str(message.get("text"))
        elif kind == "serving" and self.left and not self.serving:
            self.serving = True
            self._patience.cancel()
            self._answer(self._version, "")
            self._service.handed_over()
        else:
            self._service.asked(message, descriptors)

    def _leave(self) -> None:
        self._patience.cancel()
        self._patience = self._loop.call_later(GO_TIMEOUT, self._overdue)
        try:
            self._service.leave(self.pid, self._outbox.send)
        except OSError as error:
            self._why = f"cannot hand over: {error.strerror}"
            self.give_up()
            return
        self.left = True
        self._outbox.send("go")

    def _overdue(self) -> None:
        left = self.left
        # What it has said may be unread, if this process was stopped itself.
        self._read()
        if self._over or self.serving or self.left != left:
            return
        self._why = self._why or "it was not ready in time"
        self.give_up()

    def give_up(self) -> None:
        """Kill the successor; `_ended` follows."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _ended(self) -> None:
        """The channel is closed, so the successor is ending or has ended."""
        if not self.serving:
            self.give_up()
        self.close()
        if self.serving:
            # Its connections are over, or it was killed: we finish ours.
            self._service.successor_gone()
            return
        if self.left:
            self._service.come_back()
        self._answer("", self._why or "it ended before it was ready; the log says why")

    def close(self) -> None:
        """Tell the successor nothing more."""
        if self._over:
            return
        self._over = True
        self._patience.cancel()
        self._outbox.close()
        self._loop.forget(self._link.fileno())
        self._link.close()
        os.close(self._pidfd)

    def tell(self, kind: str, **fields: Any) -> None:
        """Send the successor a message, if it is there."""
        if not self._over:
            self._outbox.send(kind, **fields)


def write_document(document: Any) -> int:
    """A file in memory with *document* as JSON; its descriptor."""
    number = os.memfd_create("lpserve-handover")
    with open(number, "wb", closefd=False) as file:
        file.write(json.dumps(document).encode("ascii"))
    return number


def _spawn(spec: SuccessorSpec, theirs: socket.socket) -> tuple[int, int]:
    """Start a successor; its pid and a pidfd.

    It has a process group of its own: Ctrl-C is for the first process, which passes it
    on. SIGINT stays ignored if it is.
    """
    number = theirs.fileno()
    os.set_inheritable(number, True)
    pid = os.posix_spawn(
        spec.argv[0],
        [*spec.argv, f"--successor={number}"],
        spec.environ,
        setpgroup=0,
        setsigmask=[],
        setsigdef=[signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD],
    )
    try:
        return pid, os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        raise
