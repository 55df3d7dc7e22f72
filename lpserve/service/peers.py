# SPDX-License-Identifier: GPL-2.0-or-later

"""Names the requester of a reply for the log."""

from __future__ import annotations

import functools
import pwd
import re
import socket
import struct
from collections.abc import Mapping

from .doors import Reply

#: An address as sshd writes it: IPv4, or IPv6 with a scope where it has one.
_address = re.compile(r"[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9._-]{1,15})?")

_credentials = struct.Struct("3i")


def peer_credentials(link: socket.socket) -> tuple[int, int]:
    """The pid and the uid of whoever is connected (SO_PEERCRED of socket(7))."""
    found = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _credentials.size)
    pid, uid, _ = _credentials.unpack(found)
    return pid, uid


def client_address(environment: Mapping[str, str]) -> str:
    """The address of the client of ssh; "" if it is not known.

    Only users whose processes may ask for connections can say it, in the request's
    ``env.SSH_CLIENT`` or ``env.SSH_CONNECTION``: sshd sets both, and its clients
    cannot (sshd_config(5), AcceptEnv).

    :param environment: that of the request.
    """
    for name in ("SSH_CLIENT", "SSH_CONNECTION"):
        first = environment.get(name, "").partition(" ")[0]
        if _address.fullmatch(first):
            return first
    return ""


def describe_peer(reply: Reply) -> str:
    """The user, uid and pid of the requester; at the FIFO they are not known."""
    if reply.peer is None:
        return "somebody at the FIFO"
    pid, uid = reply.peer
    try:
        return f"{_user_name(uid)} (uid {uid}, pid {pid})"
    except KeyError:
        return f"uid {uid}, pid {pid}"


@functools.lru_cache(maxsize=256)
def _user_name(uid: int) -> str:
    """The name of the user *uid*; cached, because a look-up may take long.

    :raises KeyError: if there is none, or if no descriptor is free.
    """
    return pwd.getpwuid(uid).pw_name
