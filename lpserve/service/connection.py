# SPDX-License-Identifier: GPL-2.0-or-later

"""What the service knows of one worker and of one connection."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from .. import channel
from ..wire import encode_error
from .children import Child
from .doors import Reply
from .loop import Timer
from .peers import client_address, describe_peer

log = logging.getLogger("lpserve")


class Worker:
    """A worker, from the request for it on; spare while it has no connection.

    :ivar generation: the number of the zygote that forks it.
    :ivar serial: the number under which it was requested.
    """

    #: How many messages of one worker are read in one iteration of the loop.
    MESSAGES_AT_ONCE = 64

    def __init__(self, generation: int, ours: socket.socket, serial: int = 0):
        self.generation = generation
        self.serial = serial
        self.channel = ours
        self.child: Child | None = None
        self.connection: Connection | None = None
        self.retired = False
        #: Whether it was requested before something that it has to know.
        self.outdated = False
        #: Whether it writes its exit status to the client itself.
        self.left = False
        #: How many pings a spare worker has left unanswered, and since when.
        self.silent, self.silent_since = 0, 0.0

    def take(
        self, connection: Connection, descriptors: tuple[int, ...], **fields: Any
    ) -> bool:
        """Send it its connection; False if it is not there.

        :param fields: of the message, beside what is said of *connection*.
        """
        try:
            channel.send(
                self.channel,
                "serve",
                descriptors,
                user=connection.user,
                env=connection.env,
                **fields,
            )
        except OSError:
            return False
        return True

    def messages(self) -> Iterator[dict[str, Any] | None]:
        """The messages that have arrived; None if the worker has closed its end."""
        for _ in range(self.MESSAGES_AT_ONCE):
            if self.retired:
                return
            try:
                message, descriptors = channel.receive(self.channel)
            except BlockingIOError:
                return
            except ValueError:
                continue  # not a message
            for descriptor in descriptors:
                os.close(descriptor)
            yield message


class Observer(Protocol):
    """Told what becomes of connections; see `admission.Admission`."""

    def refused(self, code: str) -> None:
        """One was refused, with the code of an error."""

    def released(self, connection: Connection) -> None:
        """One that was admitted has ended, or was refused in the end."""


class Streamed(NamedTuple):
    """How a connection has got its streams.

    :ivar made, kept, followed: how many were made for it, were kept from before, and
        were read along while another worker made them.
    :ivar size: bytes of those that were kept from before.
    """

    made: int = 0
    kept: int = 0
    followed: int = 0
    size: int = 0


#: Of a connection that has got none.
_NONE = Streamed()


@dataclass(eq=False)
class Connection:
    """One connection: the request and its progress.

    :ivar address: of the ssh client, see `peers.client_address`.
    :ivar door: "fifo" or "socket".
    :ivar path: the directory of its FIFOs, once there was one.
    :ivar worker: the one that serves it.
    :ivar timer: what it may have to be given up by, or ended.
    :ivar client_gone: whether its client went away before it had ended.
    :ivar admitted: when it got its place, in seconds of `time.monotonic`; None while it
        waits for one.
    :ivar evicted: whether an administrator has told it to end.
    :ivar handed_over: when a worker got it, in seconds of `time.monotonic`; or None.
    :ivar streams: how it has got its streams.
    """

    user: str
    env: dict[str, str]
    reply: Reply
    started: float = field(default_factory=time.monotonic)
    path: str | None = None
    worker: Worker | None = None
    timer: Timer | None = None
    client_gone: bool = False
    admitted: float | None = None
    observer: Observer | None = None
    evicted: bool = False
    handed_over: float | None = None
    streams: Streamed = _NONE

    def __post_init__(self) -> None:
        self.address = client_address(self.env)
        self.door = self.reply.door

    def count_stream(
        self,
        made: bool = False,
        kept: bool = False,
        followed: bool = False,
        size: int = 0,
    ) -> None:
        """It has got a stream; see `Streamed`."""
        old = self.streams
        self.streams = Streamed(
            old.made + made,
            old.kept + kept,
            old.followed + followed,
            old.size + (size if kept else 0),
        )

    def refuse(self, code: str, text: str) -> None:
        """Answer with an error; the connection gets no worker."""
        if self.timer is not None:
            self.timer.cancel()
        by = describe_peer(self.reply)
        log.warning("refused: %s: %s; asked by %s for %s", code, text, by, self.user)
        self.reply.send(encode_error(code, text))
        self.reply.close()
        if self.observer is not None:
            self.observer.refused(code)
        self.release()

    def release(self) -> None:
        """Give its place to another; it may be told so again."""
        observer, self.observer = self.observer, None
        if observer is not None and self.admitted is not None:
            observer.released(self)
