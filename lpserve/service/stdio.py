# SPDX-License-Identifier: GPL-2.0-or-later

"""What somebody sends to the socket: lines, and descriptors with them."""

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
#: That one message can have (SCM_MAX_FD of unix(7)). What there is no room for the
#: kernel closes itself, and may wait for that; see `close_at_once`.
MAX_ATTACHED = 253
_int = array.array("i").itemsize
_NO_LINGER = struct.pack("ii", 0, 0)


@contextlib.contextmanager
def _as_socket(descriptor: int) -> Iterator[socket.socket]:
    """An object for *descriptor*, which stays open.

    :raises OSError: if it is no socket. Of which family does not matter, and not each
        kind tells.
    """
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, descriptor)
    try:
        yield link
    finally:
        link.detach()


def close_at_once(descriptors: Iterable[int]) -> None:
    """Close what somebody has sent, without waiting.

    The last close(2) of a socket waits for its other end where it was told to
    (SO_LINGER of socket(7)), also if it does not block otherwise.
    """
    for descriptor in descriptors:
        with contextlib.suppress(OSError), _as_socket(descriptor) as link:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        os.close(descriptor)


class PassedDescriptors:
    """The descriptors that came with one line at the socket."""

    def __init__(self) -> None:
        self.descriptors: list[int] = []
        self.surplus = self.truncated = False

    def __bool__(self) -> bool:
        return bool(self.descriptors) or self.surplus or self.truncated

    def take(self, content: bytes) -> None:
        """Add those of an SCM_RIGHTS message."""
        whole = len(content) - len(content) % _int
        self.descriptors.extend(array.array("i", content[:whole]))
        if len(self.descriptors) > len(_NAMES):
            self.surplus = True
            self.close()

    def close(self) -> None:
        """Close them."""
        close_at_once(self.descriptors)
        self.descriptors = []

    def take_stdio(self, address: object) -> tuple[int, ...]:
        """Hand them over as a worker's standard input, output and error.

        :param address: that of the socket at which they arrived.
        :raises RequestError: if they cannot be.
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
    """What has come on one connection and has not been understood yet.

    No more is kept of it than bytes, however many lines they are.

    :ivar data: those bytes.
    """

    def __init__(self) -> None:
        self.data = b""
        # What came with the first line of it, and with the last.
        self._first: PassedDescriptors | None = None
        self._last: PassedDescriptors | None = None

    def take(
        self, data: bytes, attached: list[tuple[int, int, bytes]], flags: int
    ) -> None:
        """Add what `socket.socket.recvmsg` returned; only where no line is whole."""
        self.data += data
        if not (attached or flags & socket.MSG_CTRUNC):
            return
        # They came with the end of it: the kernel hands out what was sent before
        # them as well, but nothing that was sent after (unix(7)).
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
        """The next line that is whole, and what came with it; None if there is none.

        Lines of nothing are left out, all of them at once.
        """
        if self._first is None:
            some = self.data.lstrip()
            # Unless there are descriptors with it.
            self.data = self.data[-1:] if self._last and not some else some
        line, newline, rest = self.data.partition(b"\n")
        if not newline:
            if self._last is not None:
                self._first, self._last = self._last, None
            return None
        self.data = rest
        attached, self._first = self._first, None
        if self._last is not None and b"\n" not in rest[:-1]:
            # What is left is the line with which they came, if anything is.
            if rest:
                self._first = self._last
            else:
                attached = self._last
            self._last = None
        return line, attached or PassedDescriptors()

    def close(self) -> None:
        """Forget it, and close what came with it."""
        self.data = b""
        for attached in self._first, self._last:
            if attached is not None:
                attached.close()
        self._first = self._last = None


def stdio_fault(descriptors: Collection[int], address: object) -> str | None:
    """Why *descriptors* cannot be standard input, output and error; or None.

    :param address: that of the service's socket. A worker that held the other end of
        a connection to it would keep its own client, or another's, from being seen
        to go.
    """
    poller = select.poll()
    for number, name in zip(descriptors, _NAMES, strict=True):
        flags = fcntl.fcntl(number, fcntl.F_GETFL)
        useful = (os.O_RDONLY if name == "stdin" else os.O_WRONLY, os.O_RDWR)
        if flags & os.O_PATH or flags & os.O_ACCMODE not in useful:
            wanted = "reading" if name == "stdin" else "writing"
            return f"the descriptor of {name} is not open for {wanted}"
        poller.register(number, 0)  # POLLHUP is always told
    gone = {number for number, _ in poller.poll(0)}
    for number in descriptors:
        # A pipe may be closed at the other end and have something to read.
        if stat.S_ISSOCK(os.fstat(number).st_mode):
            peer = None if number in gone else _peer_of(number)
            if peer is None:
                return "a descriptor is a socket that is not connected"
            if peer == address:
                return "a descriptor is a connection to the service"
    return None


def _peer_of(number: int) -> object:
    """The address to which a socket is connected; None if it is not."""
    with contextlib.suppress(OSError), _as_socket(number) as link:
        return link.getpeername()
    return None
