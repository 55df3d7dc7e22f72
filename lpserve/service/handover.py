# SPDX-License-Identifier: GPL-2.0-or-later

"""Hands the service over to a successor: a new process, which has new code.

The old service goes on until the new one has a zygote and says that it is ready. Then
it leaves the doors, so that the next request waits in them for the new one, and serves
to its end what it has. `takeover` is the other side.

The two talk by a channel (see `channel`). To the successor: ``document`` (with a file
in memory: JSON, of the version `FORMAT`), ``descriptors`` (those that the document
names, in its order), ``open`` (connections that go on here), ``history``, ``go``,
``ended`` and ``used`` (of such a connection). From it: ``ready``, ``failed``,
``serving``, ``adopt`` (with a connection to the socket, by which it asks as any client
does).
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

from .. import channel
from .loop import Loop, Timer
from .outbox import Outbox

log = logging.getLogger("lpserve")

#: Of the document; another one means that an upgrade is a restart.
FORMAT = 1
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
    """What a service hands over; see `Handover`."""

    def pack(self) -> tuple[dict[str, Any], list[int]]:
        """The document, and copies of the descriptors that it names."""

    def leave(self, pid: int, tell: Callable[..., None]) -> None:
        """Leave the doors to the process *pid*, and *tell* it what stays here."""

    def come_back(self) -> None:
        """Take the doors again: the successor has gone before it had them."""

    def adopt(self, number: int) -> None:
        """Serve the connection *number* as if it had come to the socket."""

    def handed_over(self) -> None:
        """The successor serves: end when nothing is left to do."""


class Handover:
    """One attempt to hand over.

    :param answer: called once: with the version of the successor and "", or with ""
        and why there is none.
    :ivar serving: whether the successor serves, or has.
    """

    def __init__(
        self,
        loop: Loop,
        spec: SuccessorSpec,
        service: HandoverControl,
        answer: Callable[[str, str], None],
    ):
        self.serving = False
        self._loop = loop
        self._service = service
        self._answer = answer
        self._version = self._why = ""
        self._left = self._over = False
        with contextlib.ExitStack() as on_failure:
            document, descriptors = service.pack()
            for each in descriptors:
                on_failure.callback(os.close, each)
            self._link, theirs = channel.pair()
            on_failure.callback(self._link.close)
            with theirs:
                self._pid, self._pidfd = _spawn(spec, theirs)
            on_failure.pop_all()
        self._link.setblocking(False)
        self._outbox = Outbox(loop, self._link)
        self._patience: Timer = loop.call_later(READY_TIMEOUT, self._overdue)
        loop.watch(self._link.fileno(), self._read)
        self._send_document(document, descriptors)

    def _send_document(
        self, document: dict[str, Any], descriptors: Sequence[int]
    ) -> None:
        content = json.dumps({**document, "format": FORMAT}).encode()
        number = os.memfd_create("lpserve-handover")
        with open(number, "wb", closefd=False) as file:
            file.write(content)
        self._outbox.send("document", (number,), count=len(descriptors))
        most = channel.MAX_DESCRIPTORS
        for start in range(0, len(descriptors), most):
            some = tuple(descriptors[start : start + most])
            self._outbox.send("descriptors", some)

    # -- what the successor says -----------------------------------------------

    def _read(self) -> None:
        for message, descriptors in channel.receive_all(self._link):
            if message is None:
                self._ended()
            elif message["kind"] == "adopt" and descriptors:
                self._service.adopt(descriptors.pop(0))
            else:
                self._handle(message)
            for each in descriptors:
                os.close(each)

    def _handle(self, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if kind == "ready" and not self._left:
            self._version = str(message.get("version"))
            self._leave()
        elif kind == "failed":
            self._why = str(message.get("text"))
        elif kind == "serving" and self._left and not self.serving:
            self.serving = True
            self._patience.cancel()
            self._answer(self._version, "")
            self._service.handed_over()

    def _leave(self) -> None:
        self._left = True
        self._patience.cancel()
        self._patience = self._loop.call_later(GO_TIMEOUT, self._overdue)
        self._service.leave(self._pid, self._outbox.send)
        self._outbox.send("go")

    def _overdue(self) -> None:
        self._why = "it was not ready in time"
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
            return  # its connections are over, or it was killed: we finish ours
        if self._left:
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


def _spawn(spec: SuccessorSpec, theirs: socket.socket) -> tuple[int, int]:
    """Start a successor; its pid and a pidfd."""
    number = theirs.fileno()
    os.set_inheritable(number, True)
    pid = os.posix_spawn(
        spec.argv[0],
        [*spec.argv, f"--successor={number}"],
        spec.environ,
        setsigmask=[],
        setsigdef=[signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD],
    )
    try:
        return pid, os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        raise
