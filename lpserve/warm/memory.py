# SPDX-License-Identifier: GPL-2.0-or-later

"""Looks up what a worker knows of repositories, and reports which ones it uses.

A worker has two sources: the revision graphs that a loader made, which all processes
share, and what it has read in this connection. Both are valid for certain index files
only, which are identified by the result of stat(2). For each request, Breezy reads the
names of the packs from disk before it asks here. Therefore an answer is never older
than the repository on disk.

Breezy offers no hook where it looks up parents. `wrapping` wraps its functions.
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
from ..filestamp import FileStamp, stamp_of
from ..mapping import Mapping
from ..serving.containment import ContainedTransport
from .revisiongraph import RevisionGraph

#: The directories of a repository and of its indices, below its path.
CONTROL = "/.bzr"
INDICES = f"{CONTROL}/repository/indices"
#: The most revisions, and index nodes, that a connection remembers.
MOST_REVISIONS, MOST_NODES = 100_000, 256
#: The most revisions in packs newer than the graph; beyond that it is not used.
MOST_OTHERS = 5_000
#: A read of this many nodes is a scan of the index, whose nodes are not remembered.
MANY_NODES = 64
#: The body of a request for parents by a client that has seen none yet.
NOTHING_SEEN = b"\n\n0"

#: How Breezy represents the parents of a revision that has none.
NO_PARENTS = (_mod_revision.NULL_REVISION,)


def identity(path: str) -> FileStamp:
    """A value that changes whenever the content of the file *path* does.

    See `loader` for files that have just been written.

    :raises OSError: if stat(2) fails.
    """
    return stamp_of(os.stat(path))


#: The names that Breezy gives packs. A client may write others, such as "../name".
_is_pack_name = re.compile("[0-9a-f]{32}").fullmatch


def are_pack_names(names: Iterable[str]) -> bool:
    """Whether all *names* are names that Breezy gives packs."""
    return all(map(_is_pack_name, names))


def local_path(transport: Any) -> str | None:
    """The directory of *transport* on this host, or None."""
    if isinstance(transport, ContainedTransport):
        return transport.directory()
    if isinstance(transport, LocalTransport):
        path: str = transport.local_abspath(".")
        return path
    return None


class ConnectionCache:
    """What this connection has read of a repository with certain packs.

    :ivar content: the sizes and the identities of the indices of these packs.
    :ivar found: the parents of revisions.
    :ivar agree: whether the packs newer than the graph, all of whose revisions are in
        `found`, agree with it; None before they were compared.
    """

    __slots__ = ("agree", "content", "found")

    def __init__(self, content: Any = None):
        self.content = content
        self.found: dict[bytes, tuple[bytes, ...]] = {}
        self.agree: bool | None = None


class RepositoryView:
    """What is known of a repository as long as its list of packs does not change.

    :ivar names: the names of its packs.
    :ivar graph: the graph that a loader made of some or all of them, or None.
    :ivar exact: whether the graph covers all of them.
    :ivar read: what this connection has read.
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
        """Whether `graph` and newer packs agree; remember *others* if they do.

        If two packs disagree, Breezy's answer depends on the order of look-ups.

        :param others: the parents in the newer packs, as Breezy represents them.
        """
        if self.graph is not None:
            for each, parents in others.items():
                kept = self.graph.parents(each)
                if kept is not None and (kept or NO_PARENTS) != parents:
                    return False
        self.read.found.update(others)
        return True

    def parents(self, revision: Any) -> tuple[bytes, ...] | None:
        """The parents of *revision* as Breezy represents them; None if not known."""
        if not isinstance(revision, bytes):
            return None  # Breezy raises the error
        parents = self.read.found.get(revision)
        if parents is None and self.graph is not None:
            parents = self.graph.parents(revision)
            if parents == ():
                return NO_PARENTS
        return parents

    def learn(self, found: dict[bytes, tuple[bytes, ...]]) -> None:
        """Remember parents that Breezy has looked up."""
        if len(self.read.found) < MOST_REVISIONS:
            self.read.found.update(found)
            self.read.found.pop(_mod_revision.NULL_REVISION, None)


class RepositoryCache:
    """What this process knows of all repositories; its instance is `cache`."""

    def __init__(self) -> None:
        # By path, and by device and inode of the directory of indices.
        self._graphs: dict[str, RevisionGraph] = {}
        self._mappings: dict[str, Mapping] = {}
        self._places: dict[tuple[int, int], RevisionGraph] = {}
        # What this connection has read: {directory: (packs, parents)}.
        self._read: dict[str, ConnectionCache] = {}
        self._nodes: dict[tuple[str, int, FileStamp], dict[Any, Any]] = {}
        self._node_count = 0
        # The uses to report: {path: outcome}.
        self._used: dict[str, str] = {}
        self._link: socket.socket | None = None
        self._interval = self._next_report = math.inf

    # -- graphs from the service -----------------------------------------------

    def take(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """Handle a ``warm`` message: keep or drop a graph; errors are ignored.

        :param message: with the ``path`` of a repository.
        :param descriptors: of a file with its graph; empty: drop the graph.
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
        """Release the graph of *path*, if there is one."""
        graph = self._graphs.pop(path, None)
        if graph is not None:
            place = tuple(graph.facts["place"])
            if self._places.get(place) is graph:
                del self._places[place]
            graph.close()
        mapping = self._mappings.pop(path, None)
        if mapping is not None:
            mapping.close()

    # -- look-ups --------------------------------------------------------------

    def names_read(
        self, directory: str, packs: dict[str, list[int]]
    ) -> RepositoryView | None:
        """What is known of a repository whose list of packs was just read.

        :param directory: of its indices, with a slash at the end.
        :param packs: the sizes of the indices of each pack, by its name.
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
        """The nodes of the index file *path* that this connection has read.

        :param size: of the index, as in the list of packs.
        :returns: {number: node}, for look-ups and `add_node`; None without room.
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
        """Add a node to the dict that `nodes` has returned, if there is room."""
        if self._node_count < MOST_NODES:
            self._node_count += 1
            nodes[number] = node

    # -- reports ---------------------------------------------------------------

    def connect(self, link: socket.socket, interval: float) -> None:
        """Begin to report the uses of a connection.

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
        """Release all graphs, because the client is idle.

        A graph takes memory as long as any process maps it, even after a newer one has
        replaced it. A client may be idle for hours.
        """
        for path in list(self._graphs):
            self.drop(path)
        self.report_if_due()

    def report_if_due(self) -> None:
        """Call `report` if the last one is an interval ago."""
        if self._used and time.monotonic() >= self._next_report:
            self.report()

    def report(self) -> None:
        """Send the service the uses since the last report.

        It does not wait: if the channel is full, they are lost.
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
