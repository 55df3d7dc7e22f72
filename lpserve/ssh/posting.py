# SPDX-License-Identifier: GPL-2.0-or-later

"""Messages between the front of lp-serve-ssh and its processes, in their reactors."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from .. import channel
from ..conch.fifos import DescriptorWatcher, close_soon

#: The most messages that are handled before the reactor does other work.
_AT_ONCE = 100
#: Seconds until what there was no room for is sent again.
_RETRY = 0.05

#: Called with each message and its descriptors; with None when the channel is closed.
Handle = Callable[[dict[str, Any] | None, list[int]], None]


class Post:
    """One end of a channel.

    :param handle: has to close the descriptors.
    """

    def __init__(self, reactor: Any, end: socket.socket, handle: Handle):
        end.setblocking(False)
        self._reactor = reactor
        self._end = end
        self._handle = handle
        self._over = False
        self._unsent: deque[tuple[str, dict[str, Any]]] = deque()
        self._timer: Any = None
        self._watcher = DescriptorWatcher(reactor, end.fileno(), self._read_some)

    def send(self, kind: str, **fields: Any) -> None:
        """Send a message, after those before it; nothing if the channel is closed."""
        if self._over or self.send_now(kind, **fields):
            return
        self._unsent.append((kind, fields))
        if self._timer is None:
            self._timer = self._reactor.callLater(_RETRY, self._send_rest)

    def send_now(
        self, kind: str, descriptors: tuple[int, ...] = (), **fields: Any
    ) -> bool:
        """Send a message if there is room and no other waits; whether that is so."""
        return not self._unsent and self._try(kind, descriptors, fields)

    def _try(
        self, kind: str, descriptors: tuple[int, ...], fields: dict[str, Any]
    ) -> bool:
        """Send a message; one without descriptors is dropped if nobody can read it."""
        try:
            channel.send(self._end, kind, descriptors, **fields)
        except BlockingIOError:
            return False
        except OSError:
            return not descriptors
        return True

    def _send_rest(self) -> None:
        self._timer = None
        while self._unsent:
            kind, fields = self._unsent[0]
            if not self._try(kind, (), fields):
                self._timer = self._reactor.callLater(_RETRY, self._send_rest)
                return
            self._unsent.popleft()

    def flush(self) -> None:
        """Send what is left; wait until there is room."""
        self._end.setblocking(True)
        self._send_rest()

    def _read_some(self) -> None:
        for _ in range(_AT_ONCE):
            if not self._read_one():
                return

    def read_all(self) -> None:
        """Handle what is there."""
        while self._read_one():
            pass

    def _read_one(self) -> bool:
        if self._over:
            return False
        try:
            message, taken = channel.receive(self._end)
        except BlockingIOError:
            return False
        if message is None:
            self._over = True
            self._watcher.stop()
        self._handle(message, taken)
        return message is not None

    def close(self) -> None:
        """Close this end; what was not sent is dropped."""
        self._over = True
        self._watcher.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._unsent.clear()
        close_soon(self._reactor, self._end.detach())
