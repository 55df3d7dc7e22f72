# SPDX-License-Identifier: GPL-2.0-or-later

"""The Unix socket: accepts connections; `socketreply` serves each."""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Callable, Collection

from ..descriptors import is_readable
from ..paths import RuntimeDirectory, bind_socket
from ..wire import (
    BAD_REQUEST,
    BUSY,
    DENIED,
    MAX_REQUEST,
)
from .door import Door
from .doors import Handler
from .loop import Loop
from .peers import peer_credentials
from .socketreply import SocketReply

#: Seconds that a connection may take to send a whole request.
PATIENCE = 30.0
#: Seconds until accept(2) is tried again after a shortage of descriptors: nothing
#: reports its end.
RETRY = 0.2
#: How many connections may be without a request; beyond that the oldest is closed.
MOST_WAITING = 512
#: How many connections are accepted in one iteration of the loop.
_AT_ONCE = 64
_BACKLOG = 4096


class SocketDoor(Door):
    """The Unix socket.

    :param handle: called with each request, or the error for an invalid one, and the
        `Reply` for its answers.
    :param log: called with a line.
    :param allowed: returns the uids that may connect, besides our own and root.
    :ivar waiting: the connections without a request, the oldest first.
    :ivar address: what getpeername(2) returns to the clients.
    """

    name = "socket"

    def __init__(
        self,
        loop: Loop,
        directory: RuntimeDirectory,
        handle: Handler,
        log: Callable[[str], None],
        allowed: Callable[[], Collection[int]],
        given: int | None = None,
        lasting: bool = True,
    ):
        super().__init__(directory.socket, given, lasting)
        self.loop = loop
        self.handle = handle
        self.waiting: dict[SocketReply, None] = {}
        self.address: object = None
        self._directory = directory
        self._allowed = allowed
        self._log = log
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, given)
        self._uid = os.geteuid()
        # Whether the loop watches the listener: not in a shortage of descriptors.
        self._watched = self._left = False
        # Whether `admit` has given others search permission for the directory.
        self._widened = False

    def open(self) -> None:
        """Create the socket and listen at it.

        :raises OSError: if it cannot be created.
        """
        temporary = os.path.join(self._directory.path, ".new-socket")
        if self.given is None:
            bind_socket(self._listener, temporary)
        self.address = self._listener.getsockname()
        # Again at systemd's: clients are told who did so last (SO_PEERCRED).
        self._listener.listen(_BACKLOG)
        self._listener.setblocking(False)
        self.put_in_place(temporary)
        self.admit()
        self._accept_again()

    def admit(self) -> None:
        """Let other users reach the socket if `lpserve.allowed_peers` names some."""
        others = bool(self._allowed())
        os.chmod(self.path, 0o666 if others else 0o600)
        if others != self._widened:
            mode = stat.S_IMODE(os.stat(self._directory.path).st_mode)
            os.chmod(self._directory.path, mode | 0o011 if others else mode & ~0o011)
            self._widened = others

    def close(self) -> None:
        """Answer the requests that have arrived, and remove the socket."""
        if not self.is_open:
            return
        self.remove()
        while not self._left and self._accept():
            pass
        for each in list(self.waiting):
            each.go_on(MAX_REQUEST)
            each.release()
        self._forget()
        self._listener.close()

    def leave(self) -> bool:
        """See `Door.leave`."""
        self._left = True
        self._forget()
        return self.unasked

    @property
    def descriptor(self) -> int:
        """See `Door.descriptor`."""
        return self._listener.fileno()

    @property
    def unasked(self) -> bool:
        """See `Door.unasked`."""
        return bool(self.waiting)

    def read_on(self) -> None:
        """See `Door.read_on`."""
        self._left = False
        self._accept_again()

    def adopt(self, number: int) -> None:
        """Serve the connection *number*, which has not come here by itself."""
        self._admitted(socket.socket(fileno=number))

    def _forget(self) -> None:
        if self._watched:
            self._watched = False
            self.loop.forget(self._listener.fileno())

    def sweep(self) -> None:
        """Close connections that have sent no request for `PATIENCE` seconds."""
        before = time.monotonic() - PATIENCE
        for each in list(self.waiting):
            if each.since < before:
                each.refuse(BAD_REQUEST, f"no complete request within {PATIENCE:.0f} s")
                each.release()

    def _give_up_oldest(self) -> bool:
        """Close the oldest connection without a request; False if there is none."""
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
            except ConnectionAbortedError:
                continue
            except OSError as error:
                # EMFILE: the kernel reports it even if no connection is waiting.
                if is_readable(self._listener.fileno()) and self._give_up_oldest():
                    continue
                if self._watched:
                    self._log(f"cannot accept a connection: {error.strerror}")
                    self._forget()
                    self.loop.call_later(RETRY, self._accept_again)
                return False
            self._admitted(link)
        return True

    def _accept_again(self) -> None:
        if self._listener.fileno() >= 0 and not self._left:
            self._watched = True
            self.loop.watch(self._listener.fileno(), self._accept)

    def _admitted(self, link: socket.socket) -> None:
        pid, uid = peer_credentials(link)
        reply = SocketReply(self, link, (pid, uid))
        if uid in (0, self._uid) or uid in self._allowed():
            self.waiting[reply] = None
            reply.go_on()
            if len(self.waiting) > MOST_WAITING:
                self._give_up_oldest()
        else:
            reply.refuse(DENIED, f"uid {uid} is not in lpserve.allowed_peers")
