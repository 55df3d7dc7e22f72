# SPDX-License-Identifier: GPL-2.0-or-later

"""Writes to the scoreboard which request is served, and what it is about."""

from __future__ import annotations

import functools
from typing import Any
from urllib.parse import unquote_to_bytes

from breezy.bzr.smart import request, vfs

from .. import scoreboard

# What the first argument of a request is: no path, a path, an escaped path of a file.
_NO_PATH, _PATH, _FILE = range(3)
#: How verbs begin whose first argument is the path of a branch or a repository.
_OF_PATHS = (b"Branch.", b"BzrDir", b"Repository.", b"VersionedFileRepository.")

_args_received = request.SmartServerRequestHandler.args_received


@functools.lru_cache(maxsize=1)
def _kinds() -> dict[bytes, int]:
    """By verb what its first argument is."""
    return {
        verb: _FILE
        if issubclass(request.request_handlers.get(verb), vfs.VfsRequest)
        else _PATH
        if verb.startswith(_OF_PATHS) or verb == b"get_bundle"
        else _NO_PATH
        for verb in request.request_handlers.keys()  # noqa: SIM118 - not a mapping
    }


def args_received(handler: Any, args: Any) -> None:
    """Breezy's ``SmartServerRequestHandler.args_received``, noted."""
    verb = args[0]
    kind = _kinds().get(verb)
    path = None
    if kind is None:
        verb = scoreboard.OTHER.encode()
    elif kind != _NO_PATH and len(args) > 1 and isinstance(args[1], bytes):
        path = args[1]
        if kind == _FILE:
            path = unquote_to_bytes(path.partition(b"/.bzr")[0])
        path = path.strip(b"/") or b"/"
    scoreboard.current.request(verb, path)
    _args_received(handler, args)
