# SPDX-License-Identifier: GPL-2.0-or-later

"""The socket: requests with descriptors, answered on their own connections."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
import time
from collections.abc import Callable, Collection

from ..descriptors import is_readable
from ..location import socket_address
from ..paths import RuntimeDirectory
from ..wire import (
    BAD_REQUEST,
    BUSY,
    DENIED,
    MAX_REQUEST,
    Request,
    RequestError,
    parse_request,
)
from .doors import Door, Handler, Reply, noop
from .loop import Callback, Loop
from .stdio import MAX_ATTACHED, PassedDescriptors, ReceiveBuffer, close_at_once

#: Seconds that a connection may take to send a whole request.
PATIENCE = 30.0
#: Seconds until connections are accepted again for which there was no descriptor:
#: nothing tells when there are some.
RETRY = 0.2
#: How many connections may be without a request; of more the oldest is given up.
MOST_WAITING = 512
#: How many connections are accepted, and requests of one connection answered, before
#: the loop looks at something else.
_AT_ONCE, _TURNS = 64, 16
_BACKLOG = 4096

_credentials = struct.Struct("3i")
_SPACE = socket.CMSG_SPACE(MAX_ATTACHED * struct.calcsize("i"))


class SocketReply(Reply):
    """One connection at the socket: its requests, and the way back for answers.

    One request is handled at a time: until `close` the next one waits.

    See `doors.Reply`, too.

    :ivar since: when it began to wait for a request.
    """

    def __init__(self, door: SocketDoor, link: socket.socket, peer: tuple[int, int]):
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
        """Whether it has not been closed by us."""
        return self.link.fileno() >= 0

    def refuse(self, code: str, text: str) -> None:
        """Answer with an error, and with nothing more."""
        self._last = True
        self._hand(RequestError(code, text))
        self.go_on()

    def go_on(self, turns: int = _TURNS) -> None:
        """Do what can be done now; then wait for what is wanted next.

        :param turns: requests to answer before others have their turn.
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
        """Do the next thing; False if something has to happen first."""
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
            # Once only: others are to have their turn.
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
        """Go on in the next round of the loop; False."""
        self._forget()
        self._loop.call_later(0, self.go_on)
        return False

    def _forget(self) -> None:
        if self._watched is not None:
            self._watched = None
            self._loop.forget(self.link.fileno())

    # -- requests ------------------------------------------------------------

    def _receive(self) -> bool:
        """Take what has arrived; whether there was anything."""
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
        """Have nothing more sent to us, and nothing wait that was.

        A descriptor that waits at a connection keeps open what it refers to: with
        its other end among them the client would never be seen to go.
        """
        if self._receiving_stopped:
            return
        self._receiving_stopped = True
        self._received.close()
        with contextlib.suppress(OSError):  # BlockingIOError, too: it is empty
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
            # It has been answered, whatever it was.
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
        """Send *line* without waiting; whether somebody is there to read it."""
        self._unsent += line
        self.go_on()
        return self.is_open

    def close(self) -> None:
        """There are no more answers to this request."""
        self.hand_over()
        self.on_disconnect = noop
        self._answering = False
        if self.is_open:
            self.since = time.monotonic()
            self._door.waiting[self] = None
        self.go_on()

    def hand_over(self) -> None:
        """Close the descriptors of a worker, which has its own by now."""
        close_at_once(self.attached[1:])
        self.attached = ()

    def release(self) -> bool:
        """Close the connection; False."""
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
        """Send what is to be sent; False if there is no room for all of it."""
        flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
        try:
            while self._unsent:
                self._unsent = self._unsent[self.link.send(self._unsent, flags) :]
        except BlockingIOError:
            return False
        except OSError:  # nobody is there to read it
            self._unsent = b""
            if not self._answering:
                self._last = True
        return True


class SocketDoor(Door):
    """The socket.

    :param handle: called with every request, or with why it is none, and the
        way back for its answer.
    :param log: called with a line.
    :param allowed: tells the uids that are let in beside our own and root.
    :ivar waiting: the connections that have no request, the oldest first.
    :ivar address: of what its clients are connected to (`socket.getpeername`).
    """

    name = "socket"

    def __init__(
        self,
        loop: Loop,
        directory: RuntimeDirectory,
        handle: Handler,
        log: Callable[[str], None],
        allowed: Callable[[], Collection[int]],
    ):
        super().__init__(directory.socket)
        self.loop = loop
        self.handle = handle
        self.waiting: dict[SocketReply, None] = {}
        self.address: object = None
        self._directory = directory
        self._allowed = allowed
        self._log = log
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._uid = os.geteuid()
        # Whether the loop tells of new connections: not while there is no room.
        self._watched = False
        # Whether we have let others into the directory.
        self._widened = False

    def open(self) -> None:
        """Make the socket and listen at it.

        :raises OSError: if it cannot be made.
        """
        temporary = os.path.join(self._directory.path, ".new-socket")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        address, directory = socket_address(temporary)
        try:
            self._listener.bind(address)
        finally:
            if directory >= 0:
                os.close(directory)
        self.address = self._listener.getsockname()
        self._listener.listen(_BACKLOG)
        self._listener.setblocking(False)
        self.put_in_place(temporary)
        self.admit()
        self._accept_again()

    def admit(self) -> None:
        """Let those get to the socket who are let in."""
        others = bool(self._allowed())
        os.chmod(self.path, 0o666 if others else 0o600)
        if others != self._widened:
            mode = stat.S_IMODE(os.stat(self._directory.path).st_mode)
            os.chmod(self._directory.path, mode | 0o011 if others else mode & ~0o011)
            self._widened = others

    def close(self) -> None:
        """Answer what has been asked, then remove the socket if it is ours."""
        if not self.is_open:
            return
        self.remove()
        while self._accept():
            pass
        for each in list(self.waiting):
            each.go_on(MAX_REQUEST)
            each.release()
        if self._watched:
            self.loop.forget(self._listener.fileno())
        self._listener.close()

    def sweep(self) -> None:
        """Give up connections that have sent no request for `PATIENCE`."""
        before = time.monotonic() - PATIENCE
        for each in list(self.waiting):
            if each.since < before:
                each.refuse(BAD_REQUEST, f"no complete request within {PATIENCE:.0f} s")
                each.release()

    def _give_up_oldest(self) -> bool:
        """Make room for another connection; False if nobody waits idly."""
        for each in self.waiting:
            each.refuse(BUSY, "too many connections without a request")
            each.release()
            return True
        return False

    def _accept(self) -> bool:
        """Accept connections; whether there may be more."""
        for _ in range(_AT_ONCE):
            try:
                link, _ = self._listener.accept()
            except BlockingIOError:
                return False
            except ConnectionAbortedError:  # it is gone already
                continue
            except OSError as error:
                # The kernel wants a descriptor although nobody may be waiting.
                if is_readable(self._listener.fileno()) and self._give_up_oldest():
                    continue
                if self._watched:
                    self._log(f"cannot accept a connection: {error.strerror}")
                    self._watched = False
                    self.loop.forget(self._listener.fileno())
                    self.loop.call_later(RETRY, self._accept_again)
                return False
            self._admitted(link)
        return True

    def _accept_again(self) -> None:
        if self._listener.fileno() >= 0:
            self._watched = True
            self.loop.watch(self._listener.fileno(), self._accept)

    def _admitted(self, link: socket.socket) -> None:
        credentials = link.getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, _credentials.size
        )
        pid, uid, _ = _credentials.unpack(credentials)
        reply = SocketReply(self, link, (pid, uid))
        if uid in (0, self._uid) or uid in self._allowed():
            self.waiting[reply] = None
            reply.go_on()
            if len(self.waiting) > MOST_WAITING:
                self._give_up_oldest()
        else:
            reply.refuse(DENIED, f"uid {uid} is not in lpserve.allowed_peers")
