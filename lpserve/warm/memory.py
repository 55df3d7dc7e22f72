# SPDX-License-Identifier: GPL-2.0-or-later

"""What a worker knows of repositories before it has read them.

Two things: the revision graphs that were loaded before it was forked (`keep`), which
it shares with everybody, and what it has read itself in this connection. Both are
keyed by content: by what stat(2) says of the index files that they were made of. The
names of the packs are read for each request, by Breezy, before anything here is asked.
So whatever happens to a repository between two requests, or between two looks
into it, what is told is what is there.

Breezy offers no hook where it looks up parents: `wrapping` wraps the functions that
do, if they are those that this was written for.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import socket
import time
from collections.abc import Iterable
from typing import Any

from breezy import revision as _mod_revision
from breezy.transport.local import LocalTransport

from .. import channel
from ..channel import COLD, HIT, STALE
from ..serving.containment import ContainedTransport
from ..system import Mapping
from .revisiongraph import RevisionGraph

#: Where a repository has its indices, below its path.
CONTROL = "/.bzr"
INDICES = f"{CONTROL}/repository/indices"
#: Revisions, and index nodes, that a connection remembers of what it has read.
MOST_REVISIONS, MOST_NODES = 100_000, 256
#: Revisions in packs that were not loaded which are read for the sake of the others.
MOST_OTHERS = 5_000
#: Nodes that are read at once by somebody who reads all of an index.
MANY_NODES = 64
#: The body of a request for parents by a client that has seen none yet.
NOTHING_SEEN = b"\n\n0"

#: The parents of a revision without any, as Breezy has them.
NO_PARENTS = (_mod_revision.NULL_REVISION,)

Identity = tuple[int, int, int, int, int]


def identity(path: str) -> Identity:
    """What changes whenever the content of a file does.

    The time of its last change (ctime) can be set by nobody; see `loader` for one
    that has just been written.

    :raises OSError: if it is not there for us.
    """
    found = os.stat(path)
    return (
        found.st_dev,
        found.st_ino,
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
    )


#: What Breezy calls a pack. A client may write another name, which leads elsewhere.
_is_pack_name = re.compile("[0-9a-f]{32}").fullmatch


def are_pack_names(names: Iterable[str]) -> bool:
    """Whether all of *names* are such that a file called so is where it should be."""
    return all(map(_is_pack_name, names))


def local_path(transport: Any) -> str | None:
    """The directory of *transport*; None if it is not here."""
    if isinstance(transport, ContainedTransport):
        return transport.directory()
    if isinstance(transport, LocalTransport):
        path: str = transport.local_abspath(".")
        return path
    return None


class ConnectionCache:
    """What this connection has read of a repository with certain packs.

    :ivar content: of which: the sizes and the identities of their indices.
    :ivar found: parents of revisions.
    :ivar agree: whether the packs that were not loaded, all of which are in `found`,
        say the same as those that were; None before anybody has looked.
    """

    __slots__ = ("agree", "content", "found")

    def __init__(self, content: Any = None):
        self.content = content
        self.found: dict[bytes, tuple[bytes, ...]] = {}
        self.agree: bool | None = None


class RepositoryView:
    """What is known of a repository while its pack names are as they were read.

    :ivar names: of its packs.
    :ivar graph: of those of them that were loaded, if any were.
    :ivar exact: those are all that it has.
    :ivar read: what was read in this connection.
    """

    __slots__ = ("exact", "graph", "names", "read")

    def __init__(
        self,
        names: frozenset[str],
        graph: RevisionGraph | None,
        exact: bool,
        read: ConnectionCache,
    ):
        self.names = names
        self.graph = graph
        self.exact = exact
        self.read = read

    def compare(self, others: dict[bytes, tuple[bytes, ...]]) -> bool:
        """Whether `graph` and the packs that were added since agree.

        Which of two packs Breezy believes depends on what it has looked up before.

        :param others: the parents that those packs tell, as Breezy has them.
        """
        if self.graph is not None:
            for each, parents in others.items():
                kept = self.graph.parents(each)
                if kept is not None and (kept or NO_PARENTS) != parents:
                    return False
        self.read.found.update(others)
        return True

    def parents(self, revision: Any) -> tuple[bytes, ...] | None:
        """Those of *revision* as Breezy has them; None if they are not known."""
        if not isinstance(revision, bytes):
            return None  # Breezy tells what is wrong with it
        parents = self.read.found.get(revision)
        if parents is None and self.graph is not None:
            parents = self.graph.parents(revision)
            if parents == ():
                return NO_PARENTS
        return parents

    def learn(self, found: dict[bytes, tuple[bytes, ...]]) -> None:
        """Remember what was looked up."""
        if len(self.read.found) < MOST_REVISIONS:
            self.read.found.update(found)
            self.read.found.pop(_mod_revision.NULL_REVISION, None)


class RepositoryCache:
    """See the module; there is one in each process, `memory`."""

    def __init__(self) -> None:
        # By path, and by device and inode of the directory of its indices.
        self._graphs: dict[str, RevisionGraph] = {}
        self._mappings: dict[str, Mapping] = {}
        self._places: dict[tuple[int, int], RevisionGraph] = {}
        # What this connection has read: {directory: (packs, parents)}.
        self._read: dict[str, ConnectionCache] = {}
        self._nodes: dict[tuple[str, int, Identity], dict[Any, Any]] = {}
        self._node_count = 0
        # What it has used, to be reported: {path: outcome}.
        self._used: dict[str, str] = {}
        self._link: socket.socket | None = None
        self._interval = self._next_report = math.inf

    # -- what is loaded --------------------------------------------------------

    def take(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """Keep what the service sends, or drop what it does not send any more.

        Where that cannot be done, everybody reads it himself.

        :param message: ``path``, of a repository.
        :param descriptors: a file with its graph; none: it is to be dropped.
        """
        with contextlib.suppress(OSError, ValueError):
            self._take(message["path"], descriptors)

    def _take(self, path: str, descriptors: list[int]) -> None:
        try:
            self.drop(path)
            for descriptor in descriptors[:1]:
                mapping = Mapping(descriptor)
                self.keep(path, mapping.view)
                self._mappings[path] = mapping
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def keep(self, path: str, data: Any) -> None:
        """Use the revision graph *data* for the repository *path*."""
        graph = RevisionGraph(data)
        self._graphs[path] = graph
        self._places[tuple(graph.facts["place"])] = graph

    def drop(self, path: str) -> None:
        """Do not use what was kept for *path*."""
        graph = self._graphs.pop(path, None)
        if graph is not None:
            place = tuple(graph.facts["place"])
            if self._places.get(place) is graph:
                del self._places[place]
            graph.close()
        mapping = self._mappings.pop(path, None)
        if mapping is not None:
            mapping.close()

    # -- what is used ----------------------------------------------------------

    def names_read(
        self, directory: str, packs: dict[str, list[int]]
    ) -> RepositoryView | None:
        """What is known of the packs of a repository, just read from its disk.

        :param directory: where its indices are.
        :param packs: the sizes of the indices of each pack.
        """
        if not are_pack_names(packs):
            return None
        try:
            found = os.stat(directory)
        except OSError:
            return None
        graph = self._places.get((found.st_dev, found.st_ino))
        exact = False
        if graph is not None:
            kept = graph.facts["packs"]
            exact = len(kept) == len(packs)
            if not all(
                _is_as_kept(directory, name, packs.get(name), each)
                for name, each in kept.items()
            ):
                graph, exact = None, False
        self._note(directory, HIT if exact else COLD if graph is None else STALE)
        read = ConnectionCache() if exact else self._read_before(directory, packs)
        return RepositoryView(frozenset(packs), graph, exact, read)

    def _read_before(
        self, directory: str, packs: dict[str, list[int]]
    ) -> ConnectionCache:
        try:
            content = {
                name: (sizes, identity(f"{directory}{name}.rix"))
                for name, sizes in packs.items()
            }
        except OSError:
            return ConnectionCache()
        before = self._read.get(directory)
        if before is None or before.content != content:
            before = self._read[directory] = ConnectionCache(content)
        return before

    def nodes(self, path: str, size: int) -> dict[Any, Any] | None:
        """Nodes of the index file *path* that this connection has read before.

        :param size: of the index, as the names of the packs have it.
        :returns: {number: node}, to be read and added to; None if there is no room.
        """
        try:
            key = (path, size, identity(path))
        except OSError:
            return None
        found = self._nodes.get(key)
        if found is None and self._node_count < MOST_NODES:
            found = self._nodes[key] = {}
        return found

    def add_node(self, nodes: dict[Any, Any], number: int, node: Any) -> None:
        """Add to what `nodes` has returned."""
        if self._node_count < MOST_NODES:
            self._node_count += 1
            nodes[number] = node

    # -- what is reported ------------------------------------------------------

    def connect(self, link: socket.socket, interval: float) -> None:
        """A connection begins.

        :param link: the channel to the service.
        :param interval: seconds between reports.
        """
        self._link, self._interval = link, interval
        self._next_report = time.monotonic() + interval

    def _note(self, directory: str, outcome: str) -> None:
        real = os.path.realpath(directory)
        if real.endswith(INDICES):
            self._used[real[: -len(INDICES)]] = outcome
        self.report_if_due()

    def idle(self) -> None:
        """The client has asked nothing for a while.

        What was loaded is let go of: a version of a repository that was replaced since
        takes memory as long as anybody maps it, and this may be for hours.
        """
        for path in list(self._graphs):
            self.drop(path)
        self.report_if_due()

    def report_if_due(self) -> None:
        """`report`, if there was none for an interval; at every chance."""
        if self._used and time.monotonic() >= self._next_report:
            self.report()

    def report(self) -> None:
        """Tell the service which repositories were used since the last report.

        It waits for nobody: what is not told now is not told.
        """
        used, self._used = self._used, {}
        if self._link is None:
            return
        self._next_report = time.monotonic() + self._interval
        for path, outcome in used.items():
            with contextlib.suppress(OSError, ValueError):
                channel.send(
                    self._link,
                    "used",
                    flags=socket.MSG_DONTWAIT,
                    path=path,
                    outcome=outcome,
                )


def _is_as_kept(
    directory: str, name: str, sizes: list[int] | None, kept: list[Any]
) -> bool:
    try:
        return sizes == kept[0] and list(identity(f"{directory}{name}.rix")) == kept[1]
    except OSError:
        return False


cache = RepositoryCache()
