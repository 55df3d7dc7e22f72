# SPDX-License-Identifier: GPL-2.0-or-later

"""The main program of a loader, a process that reads one repository for later workers.

The zygote forks it like a worker. If it hangs, runs out of memory or crashes, the
service puts the repository aside.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterable
from typing import Any

from breezy import controldir
from breezy.bzr import pack_repo
from breezy.bzr.smart import repository as smart

from .. import channel, system
from ..filesystem import network_file_system
from ..serving import memorylimit
from ..serving.containment import Containment
from . import memory
from .memory import ConnectionCache, RepositoryView
from .revisiongraph import BadGraph, RevisionGraph, build

#: The memory limit of a loader, in bytes: for itself, and for each byte of *room*.
MEMORY, MEMORY_FOR_EACH = 256 << 20, 4
#: Nanoseconds in which two changes of a file may get the same time stamp.
YOUNG = 50_000_000
#: For how many heads of a graph the answer to a client is computed in advance.
HEADS = 16


class CannotLoad(Exception):
    """The repository is not of a kind that is kept in memory, or cannot be read."""


class Changing(CannotLoad):
    """The repository is being written."""


def main(end: socket.socket, path: str, room: int, network: bool) -> int:
    """Run a loader; its exit status.

    :param end: its end of the channel to the service.
    :param path: of the repository.
    :param room: the most bytes that may be kept.
    :param network: whether repositories on network file systems are kept, too.
    """
    system.die_with_parent()
    system.set_title("lp-loader")
    os.setpgid(0, 0)  # see `Children.end_group`
    with contextlib.suppress(OSError):
        os.nice(10)  # no connection waits for it
    if channel.is_closed(end):
        return 0
    began = time.monotonic()
    try:
        memorylimit.limit(MEMORY + MEMORY_FOR_EACH * room)
        if not network and (kind := network_file_system(path)) is not None:
            raise CannotLoad(f"it is on {kind}, and lpserve.warm_network is off")
        data, revisions = load(path)
        descriptor = _share(data)
    except MemoryError:
        return _send(end, "not-loaded", text="it takes too much memory")
    except Changing as error:
        return _send(end, "changing", text=str(error))
    except (CannotLoad, BadGraph) as error:
        return _send(end, "not-loaded", text=str(error))
    except Exception as error:
        if not os.path.exists(path + memory.CONTROL):
            return _send(end, "gone")
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return _send(end, "not-loaded", text=text[:500])
    return _send(
        end,
        "loaded",
        (descriptor,),
        size=len(data),
        revisions=revisions,
        seconds=time.monotonic() - began,
    )


def _send(end: socket.socket, kind: str, descriptors: Any = (), **fields: Any) -> int:
    with contextlib.suppress(OSError):
        channel.send(end, kind, descriptors, **fields)
    return 0


def _share(data: bytes) -> int:
    """The descriptor of a memfd with *data*, sealed against changes."""
    descriptor = os.memfd_create("lpserve-warm", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals | fcntl.F_SEAL_SEAL)
    return descriptor


def load(path: str) -> tuple[bytes, int]:
    """Read the repository at *path*: its compact graph, and its number of revisions.

    :raises CannotLoad: if it is not a repository of packs, or is inconsistent.
    :raises Changing: if it is being written, or has just been.
    """
    transport = Containment(path, writable=False).transport()
    repository = controldir.ControlDir.open_from_transport(transport).open_repository()
    if not isinstance(repository, pack_repo.PackRepository):
        raise CannotLoad(f"{repository._format} is not kept in memory")
    directory = path + memory.INDICES
    with repository.lock_read():
        packs = repository._pack_collection
        packs.ensure_loaded()
        if not memory.are_pack_names(packs._names):
            raise CannotLoad("its packs have names that Breezy does not give")
        kept = _wait_until_old(directory, packs._names)
        parent_map = _read(packs.revision_index.combined_index._indices)
        if _identities(directory, packs._names) != kept:
            raise Changing("it changes while it is read")
        found = os.stat(directory)
        facts = {"place": [found.st_dev, found.st_ino], "packs": kept}
        answers = _answer(repository, RevisionGraph(build(parent_map, {}, facts)))
    return build(parent_map, answers, facts), len(parent_map)


def _read(indices: Iterable[Any]) -> dict[bytes, tuple[bytes, ...]]:
    parent_map: dict[bytes, tuple[bytes, ...]] = {}
    for index in indices:
        for _, key, _, references in index.iter_all_entries():
            parents = tuple(each[0] for each in references[0])
            if parent_map.setdefault(key[0], parents) != parents:
                raise CannotLoad(f"two packs disagree about revision {key[0]!r}")
    return parent_map


def _identities(directory: str, names: dict[str, Any]) -> dict[str, list[Any]]:
    try:
        return {
            name: [list(sizes), list(memory.identity(f"{directory}/{name}.rix"))]
            for name, sizes in names.items()
        }
    except OSError as error:
        raise CannotLoad(f"cannot look at {error.filename}: {error.strerror}") from None


def _wait_until_old(directory: str, names: dict[str, Any]) -> dict[str, list[Any]]:
    """The identities of the indices, once they are old enough to be reliable.

    The kernel's time stamps are coarse (a tick of its timer): two changes in short
    succession may leave the same time.

    :raises Changing: if they are too young for a second.
    """
    deadline = time.monotonic() + 1.0
    while True:
        kept = _identities(directory, names)
        newest = max((each[1][4] for each in kept.values()), default=0)
        # A time stamp in the future counts as young, too.
        if time.time_ns() - newest > YOUNG:
            return kept
        if time.monotonic() > deadline:
            raise Changing("it has just been written")
        time.sleep(YOUNG / 1e9)


def _answer(repository: Any, graph: RevisionGraph) -> dict[bytes, bytes]:
    """The answers to clients that know no revisions and ask for a head, by head.

    Breezy computes the answers; it finds the parents in *graph*.
    """
    packs = repository._pack_collection
    packs._lpserve_known = RepositoryView(
        frozenset(packs._names), graph, True, ConnectionCache()
    )
    answers = {}
    for head in graph.deepest_heads()[:HEADS]:
        request = smart.SmartServerRepositoryGetParentMap(None, "/")
        request._repository = repository
        request._revision_ids = (b"include-missing:", head)
        response = request._do_repository_request(memory.NOTHING_SEEN)
        if response.args == (b"ok",):
            answers[head] = response.body
    return answers
