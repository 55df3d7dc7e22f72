# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

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
