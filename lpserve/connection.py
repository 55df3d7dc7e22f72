# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""A connection and a worker, as the service knows them."""

from __future__ import annotations

import logging
import socket
import time
from dataclasses import dataclass, field

from .children import Child
from .doors import Reply
from .loop import Timer
from .peers import describe_peer
from .wire import encode_error

log = logging.getLogger("lpserve")


class Worker:
    """A worker that was asked for; a spare one while it has no connection.

    :ivar generation: the number of the generation whose zygote forks it.
    """

    def __init__(self, generation: int, ours: socket.socket):
        self.generation = generation
        self.channel = ours
        self.child: Child | None = None
        self.connection: Connection | None = None
        self.retired = False
        #: Whether it says itself how it ends.
        self.left = False


@dataclass
class Connection:
    """One connection: what was asked for, and what became of it.

    :ivar path: the directory of its FIFOs, once there was one.
    :ivar worker: the one that serves it.
    :ivar timer: what it may have to be given up by, or ended.
    """

    user: str
    env: dict[str, str]
    reply: Reply
    started: float = field(default_factory=time.monotonic)
    path: str | None = None
    worker: Worker | None = None
    timer: Timer | None = None

    def refuse(self, code: str, text: str) -> None:
        """Answer with an error; the connection never was."""
        if self.timer is not None:
            self.timer.cancel()
        by = describe_peer(self.reply)
        log.warning("refused: %s: %s; asked by %s for %s", code, text, by, self.user)
        self.reply.send(encode_error(code, text))
        self.reply.close()
