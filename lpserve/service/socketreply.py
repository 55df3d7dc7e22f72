# SPDX-License-Identifier: GPL-2.0-or-later

"""One connection to the Unix socket: reads its requests and sends the answers."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable
from typing import Protocol

from ..wire import BAD_REQUEST, MAX_REQUEST, Request, RequestError, parse_request
from .doors import Handler, Reply, noop
from .loop import Callback, Loop
from .stdio import MAX_ATTACHED, PassedDescriptors, ReceiveBuffer, close_at_once

#: How many requests of one connection are answered in one iteration of the loop.
_TURNS = 16

_SPACE = socket.CMSG_SPACE(MAX_ATTACHED * struct.calcsize("i"))


class Acceptor(Protocol):
    """What a connection needs of who has accepted it: a `socketdoor.SocketDoor`."""

    loop: Loop
    handle: Handler
    waiting: dict[SocketReply, None]
    address: object


class SocketReply(Reply):
    """One connection to the socket: reads its requests and sends the answers.

    It handles one request at a time: the next one waits for `close`. See also
    `doors.Reply`.

    :ivar since: when it began to wait for a request (`time.monotonic`).
    """

    def __init__(self, door: Acceptor, link: socket.socket, peer: tuple[int, int]):
        super().__init__()
        self.link = link
        self.peer = peer
        self.since = time.monotonic()
        self._door = door
        self._loop = door.loop
        self._unsent = b""
        self._received = ReceiveBuffer()
        self._has_read = False
        self._turns = 0
        self._watched: Callable[[int, Callback], None] | None = None
        self._answering = self._ended = self._last = self._going_on = False
        self._receiving_stopped = False

    @property
    def is_open(self) -> bool:
        """Whether `release` has not closed it."""
        return self.link.fileno() >= 0

    def refuse(self, code: str, text: str) -> None:
        """Answer with an error, then close the connection."""
        self._last = True
        self._hand(RequestError(code, text))
        self.go_on()

    def go_on(self, turns: int = _TURNS) -> None:
        """Do what is possible without waiting; then watch for the next event.

        :param turns: how many requests to answer in this iteration of the loop.
        """
        if self._going_on:
            return
        self._going_on = True
        self._has_read = False
        self._turns = turns
        try:
            while self.is_open and self._step():
                pass
        finally:
            self._going_on = False

    def _step(self) -> bool:
        """Take one step; False if it has to wait for an event."""
        if self._unsent and not self._flush():
            return self._await(self._loop.watch_writable, self.go_on)
        if self._answering:
            if self._last:
                self._stop_receiving()
            return self._await(self._loop.watch_hang_up, self._hung_up)
        if self._last:
            return self.release()
        if not self._turns:
            return self._rest()
        found = self._received.next_line()
        if found is not None:
            self._turns -= 1
            self._hand(self._understood(*found))
        elif len(self._received.data) >= MAX_REQUEST:
            self.refuse(BAD_REQUEST, f"a request is at most {MAX_REQUEST} bytes")
        elif self._ended and self._received.data.strip():
            self.refuse(BAD_REQUEST, "the request has no newline at its end")
        elif self._ended:
            return self.release()
        elif self._has_read or not self._receive():
            # One read in each iteration, in fairness to other connections.
            return self.is_open and self._await(self._loop.watch, self.go_on)
        return True

    def _await(
        self, watch: Callable[[int, Callback], None], callback: Callback
    ) -> bool:
        if self._watched != watch:
            self._forget()
            self._watched = watch
            watch(self.link.fileno(), callback)
        return False

    def _rest(self) -> bool:
        """Go on in the next iteration of the loop; returns False."""
        self._forget()
        self._loop.call_later(0, self.go_on)
        return False

    def _forget(self) -> None:
        if self._watched is not None:
            self._watched = None
            self._loop.forget(self.link.fileno())

    # -- requests ------------------------------------------------------------

    def _receive(self) -> bool:
        """Read what has arrived; False if nothing has, or on an error."""
        self._has_read = True
        try:
            self._receive_once()
        except BlockingIOError:
            return False
        except OSError:
            return self.release()
        return True

    def _receive_once(self) -> None:
        data, attached, flags, _ = self.link.recvmsg(
            MAX_REQUEST, _SPACE, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
        )
        self._ended = not data
        self._received.take(data, attached, flags)

    def _stop_receiving(self) -> None:
        """Shut down reading, and discard what has arrived.

        A descriptor in the receive queue stays open. If it were the other end of
        this connection, a hang-up of the client would never be reported.
        """
        if self._receiving_stopped:
            return
        self._receiving_stopped = True
        self._received.close()
        with contextlib.suppress(OSError):  # BlockingIOError: the queue is empty
            self.link.shutdown(socket.SHUT_RD)
            while not self._ended:
                self._receive_once()
                self._received.close()

    def _hand(self, request: Request | RequestError) -> None:
        self._answering = True
        self._door.waiting.pop(self, None)
        try:
            self._door.handle(request, self)
        except Exception:
            # `Verbs.arrived` has sent an answer before it raises.
            self._loop.call_later(0, self.go_on)
            raise

    def _understood(
        self, line: bytes, attached: PassedDescriptors
    ) -> Request | RequestError:
        try:
            request = parse_request(line)
            if request.reply is not None:
                raise RequestError(BAD_REQUEST, "reply has no place on the socket")
            if request.verb == "spawn":
                stdio = attached.take_stdio(self._door.address)
                self.attached = (self.link.fileno(), *stdio)
                self._last = True
            elif attached:
                raise RequestError(BAD_REQUEST, f"{request.verb} takes no descriptors")
        except RequestError as error:
            return error
        finally:
            attached.close()
        return request

    # -- answers -------------------------------------------------------------

    def send(self, line: bytes) -> bool:
        """Send *line* without waiting; False if the requester has gone."""
        self._unsent += line
        self.go_on()
        return self.is_open

    def close(self) -> None:
        """End the answers to this request; go on with the next one."""
        self.hand_over()
        self.on_disconnect = noop
        self._answering = False
        if self.is_open:
            self.since = time.monotonic()
            self._door.waiting[self] = None
        self.go_on()

    def hand_over(self) -> None:
        """Close the descriptors for the worker, which has received its copies."""
        close_at_once(self.attached[1:])
        self.attached = ()

    def release(self) -> bool:
        """Close the connection; returns False."""
        self._door.waiting.pop(self, None)
        if self.is_open:
            self._forget()
            self._stop_receiving()
            self._unsent = b""
            self.link.close()
        return False

    def _hung_up(self) -> None:
        on_disconnect, self.on_disconnect = self.on_disconnect, noop
        self.release()
        on_disconnect()

    def _flush(self) -> bool:
        """Send pending answers; False if the send buffer is full."""
        flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
        try:
            while self._unsent:
                self._unsent = self._unsent[self.link.send(self._unsent, flags) :]
        except BlockingIOError:
            return False
        except OSError:  # the requester has gone
            self._unsent = b""
            if not self._answering:
                self._last = True
        return True
