# SPDX-License-Identifier: GPL-2.0-or-later

"""Who asks: as the log names them."""

from __future__ import annotations

import functools
import pwd

from .doors import Reply


def describe_peer(reply: Reply) -> str:
    """Whoever asked, and is answered by *reply*: user, uid and pid, or where."""
    if reply.peer is None:
        return "somebody at the FIFO"
    pid, uid = reply.peer
    try:
        return f"{_user_name(uid)} (uid {uid}, pid {pid})"
    except KeyError:
        return f"uid {uid}, pid {pid}"


@functools.lru_cache(maxsize=256)
def _user_name(uid: int) -> str:
    """The name of the user *uid*; once found it is kept, for it may take long.

    :raises KeyError: if there is none, or no descriptor to look with.
    """
    return pwd.getpwuid(uid).pw_name
