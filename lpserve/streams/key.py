# SPDX-License-Identifier: GPL-2.0-or-later

"""The key of a stream: a digest of everything that its bytes depend on.

The packs of a repository never change: each has a name that depends on its content, and
a list of packs is replaced as a whole. Their identities are part of the key all the
same, as for what is kept in memory.
"""

from __future__ import annotations

import hashlib
import os
import sys
import zlib
from typing import Any

import breezy

from ..filesystem import network_file_system
from ..warm.memory import local_path

#: To be changed whenever other bytes are sent for the same revisions.
_EDITION = b"1"
#: Another one each time that the host starts. Kept streams are written without waiting
#: for the disk: when the power fails, a file may have its name and its size, and zeros.
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
#: The files of a pack: where they are, and how their names end.
_PARTS = (("packs", ".pack"),) + tuple(
    ("indices", ending) for ending in (".rix", ".iix", ".tix", ".cix", ".six")
)


def key_of(request: Any, repository: Any, body: bytes, network: bool) -> str | None:
    """The key of the stream that answers *request*; None: it is not to be kept.

    :param request: a request of Breezy's for a stream.
    :param repository: where it is from, locked.
    :param body: the search, as received.
    :param network: whether to keep those of repositories on network file systems.
    """
    content = _content_of(repository, network)
    if content is None:
        return None
    try:
        with open(_BOOT_ID, "rb") as file:
            boot = file.read()
    except OSError:
        return None
    made = hashlib.sha256()
    for part in (
        _EDITION,
        boot,
        breezy.__version__.encode(),
        sys.version.encode(),
        zlib.ZLIB_RUNTIME_VERSION.encode(),
        type(request).__name__.encode(),
        request._to_format.network_name(),
        repository._format.network_name(),
        repr(repository.texts._get_compressor_settings()).encode(),
        content,
        body,
    ):
        made.update(b"%d:" % len(part))
        made.update(part)
    return made.hexdigest()


def _content_of(repository: Any, network: bool) -> bytes | None:
    """What identifies the content of *repository*."""
    if repository.is_write_locked() or repository._fallback_repositories:
        return None
    packs = getattr(repository, "_pack_collection", None)
    place = packs and local_path(repository._transport)
    if not place:
        return None
    packs.ensure_loaded()
    found: list[Any] = [os.path.realpath(place)]
    try:
        if not network and network_file_system(place) is not None:
            return None
        for name in sorted(packs._names):
            found.append(name)
            for folder, ending in _PARTS:
                path = os.path.join(place, folder, name + ending)
                if ending == ".six" and not os.path.exists(path):
                    continue
                status = os.stat(path)
                found.append((status.st_ino, status.st_size, status.st_mtime_ns))
    except OSError:
        return None
    return repr(found).encode()
