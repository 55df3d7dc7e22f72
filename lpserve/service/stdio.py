# SPDX-License-Identifier: GPL-2.0-or-later

"""Matches the descriptors that a socket receives to lines, and checks them."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import select
import socket
import stat
import struct
from collections.abc import Collection, Iterable, Iterator

from ..wire import BAD_REQUEST, FAILED, RequestError

_NAMES = ("stdin", "stdout", "stderr")
#: The most descriptors of one message (SCM_MAX_FD of unix(7)). The buffer has room
#: for all of them: the kernel closes those without room, and may wait in that close
#: (see `close_at_once`).
MAX_ATTACHED = 253
_int = array.array("i").itemsize
_NO_LINGER = struct.pack("ii", 0, 0)


@contextlib.contextmanager
def _as_socket(descriptor: int) -> Iterator[socket.socket]:
    """A socket object for *descriptor*, which stays open.

    The family may be wrong; the calls that are made here do not depend on it.

    :raises OSError: if *descriptor* is not a socket.
    """
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, descriptor)
    try:
        yield link
    finally:
        link.detach()


def close_at_once(descriptors: Iterable[int]) -> None:
    """Close descriptors that a client has sent, without waiting.

    With SO_LINGER, the last close(2) of a socket waits for its other end, even if
    the socket does not block (socket(7)).
    """
    for descriptor in descriptors:
        with contextlib.suppress(OSError), _as_socket(descriptor) as link:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        os.close(descriptor)


class PassedDescriptors:
    """The descriptors that arrived with one line at the socket."""

    def __init__(self) -> None:
        self.descriptors: list[int] = []
        self.surplus = self.truncated = False

    def __bool__(self) -> bool:
        return bool(self.descriptors) or self.surplus or self.truncated

    def take(self, content: bytes) -> None:
        """Add the descriptors of an SCM_RIGHTS message."""
        whole = len(content) - len(content) % _int
        self.descriptors.extend(array.array("i", content[:whole]))
        if len(self.descriptors) > len(_NAMES):
            self.surplus = True
            self.close()

    def close(self) -> None:
        """Close the descriptors."""
        close_at_once(self.descriptors)
        self.descriptors = []

    def take_stdio(self, address: object) -> tuple[int, ...]:
        """Hand the descriptors over as a worker's standard input, output and error.

        :param address: of the service's socket; see `stdio_fault`.
        :raises RequestError: if they are not three usable descriptors.
        """
        number = len(self.descriptors)
        if self.truncated and not self.surplus:
            raise RequestError(FAILED, "the service has no descriptors left")
        if self.surplus or number != len(_NAMES):
            raise RequestError(
                BAD_REQUEST,
                "spawn takes three descriptors on the socket (stdin, stdout, stderr), "
                f"not {'more' if self.surplus else number}",
            )
        try:
            fault = stdio_fault(self.descriptors, address)
        except OSError as error:
            fault = f"a descriptor is of no use: {error.strerror}"
        if fault is not None:
            raise RequestError(BAD_REQUEST, fault)
        stdio, self.descriptors = tuple(self.descriptors), []
        return stdio


class ReceiveBuffer:
    """The bytes and descriptors that a connection has received and not handled yet.

    It keeps bytes, not a list of lines, because a client may send many short ones.

    :ivar data: the bytes.
    """

    def __init__(self) -> None:
        self.data = b""
        # The descriptors of the first line in `data`, and of the last one.
        self._first: PassedDescriptors | None = None
        self._last: PassedDescriptors | None = None

    def take(
        self, data: bytes, attached: list[tuple[int, int, bytes]], flags: int
    ) -> None:
        """Add what `socket.socket.recvmsg` returned, after `next_line` gave None."""
        self.data += data
        if not (attached or flags & socket.MSG_CTRUNC):
            return
        # They belong to the last line. One recvmsg may return data that was sent
        # before the descriptors, but none that was sent after them (unix(7)).
        holder = PassedDescriptors()
        if 0 <= self.data.find(b"\n") < len(self.data) - 1:
            self._last = holder
        elif self._first is None:
            self._first = holder
        else:
            holder = self._first
        holder.truncated |= bool(flags & socket.MSG_CTRUNC)
        for level, kind, content in attached:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                holder.take(content)

    def next_line(self) -> tuple[bytes, PassedDescriptors] | None:
        """The next complete line and its descriptors; None if there is none.

        Empty lines are skipped, all of them at once.
        """
        if self._first is None:
            some = self.data.lstrip()
            # The last newline stays if descriptors arrived with it.
            self.data = self.data[-1:] if self._last and not some else some
        line, newline, rest = self.data.partition(b"\n")
        if not newline:
            if self._last is not None:
                self._first, self._last = self._last, None
            return None
        self.data = rest
        attached, self._first = self._first, None
        if self._last is not None and b"\n" not in rest[:-1]:
            # They belong to the rest, or to this line if there is no rest.
            if rest:
                self._first = self._last
            else:
                attached = self._last
            self._last = None
        return line, attached or PassedDescriptors()

    def close(self) -> None:
        """Discard the bytes and close the descriptors."""
        self.data = b""
        for attached in self._first, self._last:
            if attached is not None:
                attached.close()
        self._first = self._last = None


def stdio_fault(descriptors: Collection[int], address: object) -> str | None:
    """Why *descriptors* cannot be standard input, output and error; or None.

    :param address: of the service's socket. A connection to it is refused: while a
        worker has a client's end open, the service cannot notice that this client
        disconnects.
    """
    poller = select.poll()
    for number, name in zip(descriptors, _NAMES, strict=True):
        flags = fcntl.fcntl(number, fcntl.F_GETFL)
        useful = (os.O_RDONLY if name == "stdin" else os.O_WRONLY, os.O_RDWR)
        if flags & os.O_PATH or flags & os.O_ACCMODE not in useful:
            wanted = "reading" if name == "stdin" else "writing"
            return f"the descriptor of {name} is not open for {wanted}"
        poller.register(number, 0)  # POLLHUP is always reported
    gone = {number for number, _ in poller.poll(0)}
    for number in descriptors:
        # Only sockets: a pipe whose other end is closed may still have data.
        if stat.S_ISSOCK(os.fstat(number).st_mode):
            peer = None if number in gone else _peer_of(number)
            if peer is None:
                return "a descriptor is a socket that is not connected"
            if peer == address:
                return "a descriptor is a connection to the service"
    return None


def _peer_of(number: int) -> object:
    """The address to which a socket is connected; None if it is not connected."""
    with contextlib.suppress(OSError), _as_socket(number) as link:
        return link.getpeername()
    return None
