# SPDX-License-Identifier: GPL-2.0-or-later

"""Takes over from a running process; `handover` is the other side."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

from . import channel
from .errors import LpserveError
from .outbox import Loop, Outbox

#: Seconds that a predecessor may take to hand over the document.
DOCUMENT_TIMEOUT = 30.0
#: The most bytes of a list in one message; the fields beside it are short. An item
#: that is longer goes alone.
MOST_BYTES = channel.MAX_MESSAGE // 2


def in_parts(items: list[Any]) -> Iterator[list[Any]]:
    """*items*, as many at a time as there is room for in one message."""
    part: list[Any] = []
    size = 0
    for item in items:
        length = len(json.dumps(item)) + 2
        if part and size + length > MOST_BYTES:
            yield part
            part, size = [], 0
        part.append(item)
        size += length
    if part:
        yield part


def read_document(number: int) -> Any:
    """What `handover.write_document` has written to the descriptor, which is closed.

    :raises ValueError: if it is no JSON.
    """
    with open(number, "rb") as file:
        file.seek(0)
        return json.loads(file.read())


class Inheritance:
    """What a predecessor hands over.

    :param number: the descriptor of the channel to it.
    :param format: of the document.
    :param what: is to be restarted if that is another one.
    :ivar link: the channel.
    :ivar document: a JSON object.
    :ivar descriptors: those that the document names.
    :raises LpserveError: if there is none, or it is of another format.
    """

    def __init__(self, number: int, format: int, what: str):
        os.set_inheritable(number, False)
        self.link = channel.end_of(number)
        self.link.settimeout(DOCUMENT_TIMEOUT)
        try:
            self._receive()
            # Not before all is read: what is unread at our end would hide what we say.
            if self.document["format"] != format:
                text = f"format {self.document['format']} of the document, not {format}"
                self.fail(f"{text}: restart {what}")
                raise ValueError(text)
            self.use()
        except (OSError, ValueError, TypeError, KeyError, IndexError) as error:
            raise LpserveError(f"cannot take over: {error}") from None
        self.link.setblocking(False)

    def _receive(self) -> None:
        message, descriptors = channel.receive(self.link)
        if message is None or message["kind"] != "document":
            raise ValueError("there is nobody to take over from")
        self.document: dict[str, Any] = read_document(descriptors[0])
        self.descriptors: list[int] = []
        while len(self.descriptors) < message["count"]:
            _, descriptors = channel.receive(self.link)
            if not descriptors:
                raise ValueError("descriptors are missing")
            self.descriptors += descriptors

    def use(self) -> None:
        """Take out of the document what is needed.

        :raises ValueError, TypeError, KeyError, IndexError: if it is not there.
        """

    def fail(self, text: str) -> None:
        """Say why we cannot take over."""
        with contextlib.suppress(OSError):
            channel.send(self.link, "failed", text=text)


class Link:
    """A channel to a predecessor, which is watched from `listen` on.

    :param handle: called with each message and its descriptors. What it leaves in the
        list is closed.
    :param ended: called when the predecessor has ended; the channel is closed.
    """

    def __init__(
        self,
        loop: Loop,
        end: socket.socket,
        handle: Callable[[dict[str, Any], list[int]], None],
        ended: Callable[[], None],
    ):
        end.setblocking(False)
        self._loop = loop
        self._end = end
        self._handle = handle
        self._ended = ended
        self._listening = self._closed = False
        self.outbox = Outbox(loop, end)

    def listen(self) -> None:
        """Hear what it says."""
        if not (self._listening or self._closed):
            self._listening = True
            self._loop.watch(self._end.fileno(), self._read)

    def pause(self) -> None:
        """Hear no more of it: our successor does."""
        if self._listening:
            self._listening = False
            self._loop.forget(self._end.fileno())

    def copy(self) -> int:
        """A copy of the descriptor, for our successor."""
        return os.dup(self._end.fileno())

    def close(self) -> None:
        """Have nothing more to do with it; idempotent."""
        if self._closed:
            return
        self.pause()
        self._closed = True
        self.outbox.close()
        self._end.close()

    def _read(self) -> None:
        for message, descriptors in channel.receive_all(self._end):
            if message is None:
                self.close()
                self._ended()
            else:
                self._handle(message, descriptors)
            for each in descriptors:
                os.close(each)
            if not self._listening:
                return
