# SPDX-License-Identifier: GPL-2.0-or-later

"""Sends messages in order to a process that may be slow, and never waits for it."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from . import channel

#: Seconds until what there was no room for is sent again.
SEND_AGAIN = 0.01


class Timer(Protocol):
    """A call that is due later."""

    def cancel(self) -> None:
        """Do not call; no effect after the call."""


class Loop(Protocol):
    """What is needed of an event loop."""

    def watch(self, descriptor: int, readable: Callable[[], object]) -> None:
        """Call *readable* whenever *descriptor* is readable or at its end."""

    def forget(self, descriptor: int) -> None:
        """Stop watching *descriptor*; to be called before it is closed."""

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Call *callback* once, *seconds* from now."""


class Outbox:
    """Sends messages by a channel that does not block.

    :param link: our end of the channel.
    """

    def __init__(self, loop: Loop, link: socket.socket):
        self._loop = loop
        self._link = link
        self._unsent: deque[tuple[str, tuple[int, ...], dict[str, Any]]] = deque()
        self._closed = False

    def send(self, kind: str, descriptors: tuple[int, ...] = (), **fields: Any) -> None:
        """Send a message, now or when there is room; see `channel.send`.

        :param descriptors: they are closed once they have been sent.
        """
        self._unsent.append((kind, descriptors, fields))
        if self._closed:
            self._drop_first()
        elif len(self._unsent) == 1:
            self._send_all()

    def _send_all(self) -> None:
        while self._unsent and not self._closed:
            kind, descriptors, fields = self._unsent[0]
            try:
                channel.send(self._link, kind, descriptors, **fields)
            except BlockingIOError:
                self._loop.call_later(SEND_AGAIN, self._send_all)
                return
            except OSError:
                self.close()  # whoever reads the channel sees that it has ended
                return
            self._drop_first()

    def _drop_first(self) -> None:
        for descriptor in self._unsent.popleft()[1]:
            os.close(descriptor)

    def close(self) -> None:
        """Send nothing more."""
        self._closed = True
        while self._unsent:
            self._drop_first()
