# SPDX-License-Identifier: GPL-2.0-or-later

"""What a worker asks the service about streams; see `channel` for the messages.

A worker does not depend on the answer: without one it makes its stream as if nothing
was kept.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections import defaultdict, deque
from typing import Any

from .. import channel

#: Seconds to wait for the service; it answers within microseconds.
PATIENCE = 0.01

_Message = dict[str, Any]


class Inbox:
    """What the service tells a worker whose connection has begun.

    A signal handler may look for its kind of message while the program waits for
    another.

    :param link: the channel to the service.
    """

    def __init__(self, link: socket.socket):
        self.link = link
        self.closed = False
        self._arrived: defaultdict[str, deque[_Message]] = defaultdict(deque)

    def find(self, kind: str) -> _Message | None:
        """The first message of this *kind* that has arrived and was not found yet."""
        while not self.closed:
            try:
                # A signal handler may have taken what had arrived: do not wait for it.
                message, descriptors = channel.receive(
                    self.link, flags=socket.MSG_DONTWAIT
                )
            except BlockingIOError:
                break
            for descriptor in descriptors:
                os.close(descriptor)
            if message is None:
                self.closed = True
            else:
                self._arrived[message["kind"]].append(message)
        try:
            return self._arrived[kind].popleft()
        except IndexError:
            return None


class Service:
    """Asks the service about one stream.

    :param inbox: of the worker; None: there is no service.
    :param key: of the stream.
    """

    def __init__(self, inbox: Inbox | None, key: str):
        self._inbox = inbox
        self._key = key

    def ask(self, again: bool = False) -> _Message | None:
        """Ask what to do; the answer, or None if there is none in time.

        :param again: the worker that was followed has gone, or stands still.
        """
        self._tell("stream-wanted", again=again)
        return self._wait(PATIENCE)

    def wait_for_turn(self, client: int) -> _Message | None:
        """Wait until the stream may be made; the answer.

        :param client: a descriptor. None is returned if the client closes it, or the
            service ends.
        """
        poller = select.poll()
        poller.register(client, 0)  # that it is closed is always reported
        while True:
            message = self._wait(None, poller, client)
            if message is None or message["do"] != "wait":
                return message

    def _wait(
        self,
        patience: float | None,
        poller: select.poll | None = None,
        client: int = -1,
    ) -> _Message | None:
        inbox = self._inbox
        if inbox is None:
            return None
        poller = poller or select.poll()
        poller.register(inbox.link.fileno(), select.POLLIN)
        while True:
            while (message := inbox.find("stream")) is not None:
                if message["key"] == self._key:
                    return message
            if inbox.closed:
                return None
            events = poller.poll(None if patience is None else patience * 1000)
            if not events or any(number == client for number, _ in events):
                return None

    def made(self, size: int) -> None:
        """Tell that the stream is made: *size* bytes were kept; 0: it is not kept."""
        self._tell("stream-made", size=size)

    def used(self, size: int, how: str) -> None:
        """Tell that *size* bytes were served that this worker has not made.

        :param how: "kept", or "followed".
        """
        self._tell("stream-used", size=size, how=how)

    def _tell(self, kind: str, **fields: Any) -> None:
        if self._inbox is not None:
            with contextlib.suppress(OSError):
                channel.send(
                    self._inbox.link,
                    kind,
                    flags=socket.MSG_DONTWAIT,
                    key=self._key,
                    **fields,
                )
