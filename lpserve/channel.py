# SPDX-License-Identifier: GPL-2.0-or-later

"""Sends and receives messages between service, zygotes, workers and loaders.

A channel is a pair of SOCK_SEQPACKET sockets. A message is one packet: a JSON object
with a ``kind``, and descriptors attached (SCM_RIGHTS). Both ends belong to the same
installation, and no other process has access to them.

To a zygote: ``start`` (the state that a fresh process would have; with the scoreboard),
``fork`` and ``load`` (with the ends of the channels of new workers, or of a loader),
``warm`` (with the graph of a repository; without it the repository is dropped),
``access`` (with the text of the access rules), ``ping``. From it: ``ready``,
``failed``, ``forked``, ``fork-failed``, ``outdated``, ``pong``.

To a worker: ``serve`` (with the read end of its stdin and the lock on the directory of
its FIFOs; or with its stdio and the connection for its answers), ``warm``, ``ping``,
``end`` (an administrator wants that; SIGHUP comes with it), ``stream``. From it:
``pretences`` (of access rules), ``imported``, ``used``, ``gone``, ``left``, ``stayed``,
``pong``, ``stream-wanted``, ``stream-made``, ``stream-used``. From a loader: ``loaded``
(with the graph), ``not-loaded``, ``changing``, ``gone``.

About kept streams, with their ``key`` each: ``stream-wanted`` says that there is none
(``again``: the worker that was followed has gone, or stands still). ``stream`` is the
answer; it says what to ``do``: "make" (``keep`` it at the end, in a file of at most
``room`` bytes), "follow" (``pid``), or "wait" (another one comes). ``stream-made`` has
the ``size`` of what was published, or 0; ``stream-used`` that of what was "kept" or
"followed" (``how``).
"""

from __future__ import annotations

import array
import json
import os
import select
import socket
from collections.abc import Iterator
from typing import Any

#: Incremented when an older service cannot talk to a newer zygote any more.
VERSION = 5

#: The most bytes of a message: what is longer is lost. Below malloc's M_MMAP_THRESHOLD,
#: so that a receive needs no mmap(2).
MAX_MESSAGE = (1 << 17) - 256
#: The outcome in ``used``: the worker found the repository in memory, found a copy
#: that is out of date, or found none.
HIT, STALE, COLD = OUTCOMES = ("hit", "stale", "cold")
#: The most descriptors that are attached to one message.
MAX_DESCRIPTORS = 8


def pair() -> tuple[socket.socket, socket.socket]:
    """Create a channel; its two ends, which are not inheritable."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def end_of(number: int) -> socket.socket:
    """The end of a channel that was inherited or received as descriptor *number*."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, number)


def send(
    channel: socket.socket,
    kind: str,
    descriptors: tuple[int, ...] = (),
    flags: int = 0,
    **fields: Any,
) -> None:
    """Send one message.

    :param descriptors: at most `MAX_DESCRIPTORS`.
    :param flags: of send(2).
    :raises OSError: if the other end is closed; BlockingIOError if *channel* does
        not block and is full.
    """
    data = json.dumps({"kind": kind, **fields}).encode("ascii")
    attached = []
    if descriptors:
        attached = [
            (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
        ]
    channel.sendmsg([data], attached, socket.MSG_NOSIGNAL | flags)


def receive(
    channel: socket.socket, flags: int = 0
) -> tuple[dict[str, Any] | None, list[int]]:
    """Receive a message and its descriptors; None and [] if the other end is closed.

    :param flags: of recv(2).
    :raises BlockingIOError: if *channel* does not block, or *flags* say so, and no
        message has arrived.
    :raises ValueError: if the packet is not a message; its descriptors are closed.
    """
    descriptors = array.array("i")
    space = socket.CMSG_SPACE(MAX_DESCRIPTORS * descriptors.itemsize)
    try:
        data, attached, _, _ = channel.recvmsg(
            MAX_MESSAGE, space, socket.MSG_CMSG_CLOEXEC | flags
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


def receive_all(
    channel: socket.socket,
) -> Iterator[tuple[dict[str, Any] | None, list[int]]]:
    """What has arrived at *channel*, which does not block; see `receive`.

    What is no message is left out. It ends, too, when *channel* is closed meanwhile.
    """
    while channel.fileno() >= 0:
        try:
            found = receive(channel)
        except BlockingIOError:
            return
        except ValueError:
            continue
        yield found
        if found[0] is None:
            return


def _decode(data: bytes) -> dict[str, Any] | None:
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) and "kind" in message else None


def is_closed(channel: socket.socket) -> bool:
    """Whether the other end is closed; there may still be messages to read."""
    poller = select.poll()
    poller.register(channel, 0)  # POLLHUP is always reported
    return bool(poller.poll(0))
