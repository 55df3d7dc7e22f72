# SPDX-License-Identifier: GPL-2.0-or-later

"""Messages between the service, its zygotes and its workers.

They travel over sequenced-packet sockets: one JSON object a packet, descriptors
attached to it. Both ends are of one installation; nobody else sees them.

To a zygote: ``start`` (how a fresh process would be), ``fork`` and ``load`` (with the
ends of the channels of new workers, or of a loader), ``warm`` (with the graph of a
repository, or nothing if that is to be dropped), ``ping``. From it: ``ready``,
``failed``, ``forked``, ``fork-failed``, ``outdated``, ``pong``.

To a worker: ``serve`` (with the read end of its stdin and the lock on the directory of
its FIFOs; or with its stdio and the connection for its answers), ``warm``, ``ping``.
From it: ``imported``, ``used``, ``gone``, ``left``, ``stayed``, ``pong``. From a
loader: ``loaded`` (with the graph), ``not-loaded``, ``changing``, ``gone``.
"""

from __future__ import annotations

import array
import json
import os
import select
import socket
from typing import Any

#: Changed whenever an older service could not talk to a newer zygote.
VERSION = 4

# Somewhat less than what malloc(3) would get a mapping of its own for.
_MAX_MESSAGE = (1 << 17) - 256
#: What a worker found of a repository in memory, in ``used``: what it needed, something
#: that was not the same any more, or nothing.
HIT, STALE, COLD = OUTCOMES = ("hit", "stale", "cold")
#: That may be attached to one message.
MAX_DESCRIPTORS = 8


def pair() -> tuple[socket.socket, socket.socket]:
    """The two ends of a new channel, neither of them inheritable."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def end_of(number: int) -> socket.socket:
    """The end of a channel that was received as the descriptor *number*."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, number)


def send(
    channel: socket.socket,
    kind: str,
    descriptors: tuple[int, ...] = (),
    flags: int = 0,
    **fields: Any,
) -> None:
    """Send one message.

    :param flags: of send(2).
    :raises OSError: if the other end has gone, or does not keep up.
    """
    data = json.dumps({"kind": kind, **fields}).encode("ascii")
    attached = []
    if descriptors:
        attached = [
            (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
        ]
    channel.sendmsg([data], attached, socket.MSG_NOSIGNAL | flags)


def receive(channel: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """The next message and the descriptors with it; None when the other end has gone.

    :raises BlockingIOError: if *channel* does not block and has none.
    :raises ValueError: if it is none; then nothing is left open of it.
    """
    descriptors = array.array("i")
    space = socket.CMSG_SPACE(MAX_DESCRIPTORS * descriptors.itemsize)
    try:
        data, attached, _, _ = channel.recvmsg(
            _MAX_MESSAGE, space, socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionError:
        return None, []
    for level, kind, content in attached:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            whole = len(content) - len(content) % descriptors.itemsize
            descriptors.frombytes(content[:whole])
    message = _decode(data) if data else None
    if message is None:
        for descriptor in descriptors:
            os.close(descriptor)
        if data:
            raise ValueError(f"not a message: {data[:80]!r}")
        return None, []
    return message, list(descriptors)


def _decode(data: bytes) -> dict[str, Any] | None:
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) and "kind" in message else None


def is_closed(channel: socket.socket) -> bool:
    """Whether the other end has gone, even if there are messages of it to read."""
    poller = select.poll()
    poller.register(channel, 0)  # POLLHUP is always told
    return bool(poller.poll(0))
