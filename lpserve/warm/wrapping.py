# SPDX-License-Identifier: GPL-2.0-or-later

"""Wraps functions of Breezy so that they ask `memory.cache` first.

Breezy offers no hooks there. Each function that is wrapped, or that a wrapper relies
on, has to have the digest that it has in Breezy 3.3.2 to 3.3.23. If one differs,
nothing is wrapped: connections work, but do not use repositories in memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from breezy import repository
from breezy.bzr import btree_index, pack_repo, vf_repository
from breezy.bzr.smart import repository as smart
from breezy.bzr.smart.request import SuccessfulSmartServerResponse

from ..serving import knowncode
from . import memory
from .memory import RepositoryView, cache

_Packs = pack_repo.RepositoryPackCollection
_Index = btree_index.BTreeGraphIndex
_ParentMap = smart.SmartServerRepositoryGetParentMap
_RevisionGraph = smart.SmartServerRepositoryGetRevisionGraph

#: The functions that are wrapped (see `_WRAPPERS`) or relied on: owner, name, digests.
EXPECTED: tuple[knowncode.Expected, ...] = (
    (_Packs, "_iter_disk_pack_index", ("e8d95e1ffa266bce",)),
    (_Packs, "ensure_loaded", ("cc45682bcf4dd7ed", "f536945a4d27aa99")),
    (_Packs, "_parse_index_sizes", ("5107383da8c96f13",)),
    (pack_repo.PackRepository, "is_write_locked", ("92d7b8032a217fa5",)),
    (repository.Repository, "_get_parent_map_no_fallbacks", ("7685d248f9bf2e3c",)),
    (repository, "_strip_NULL_ghosts", ("9fd1f6cc41a53e01",)),
    (
        vf_repository.VersionedFileRepository,
        "get_parent_map",
        ("9e9b13faf7e8ee8c",),
    ),
    (_Index, "_read_nodes", ("694c3022f2979dff", "30d26d2a04435936")),
    (_Index, "_parse_header_from_bytes", ("1b6202841481dfc0", "859ff2ffcb98819d")),
    (_ParentMap, "do_repository_request", ("eed04471a7decffa",)),
    (_ParentMap, "_do_repository_request", ("ec3b2e2485cd1839",)),
    (_ParentMap, "_expand_requested_revs", ("418520ef0a16bf52", "9b78488463b38bd4")),
    (_RevisionGraph, "do_readlocked_repository_request", ("94c972bd322a95b6",)),
)


def install() -> None:
    """Wrap the functions; to be called once in a process.

    :raises UnexpectedBreezy: if this Breezy differs; nothing is wrapped then.
    """
    knowncode.check(EXPECTED)
    knowncode.wrap(_WRAPPERS)


def known_of(repository: Any, exact: bool = False) -> RepositoryView | None:
    """What is known of *repository*; None while it is locked for writing.

    :param exact: None, too, if the graph does not cover all of its packs, or if it is
        stacked on others.
    """
    packs = getattr(repository, "_pack_collection", None)
    known: RepositoryView | None = getattr(packs, "_lpserve_known", None)
    if known is None or repository.is_write_locked():
        return None
    if exact and (
        not known.exact
        or repository._fallback_repositories
        or packs._names.keys() != known.names
    ):
        return None
    return known


def _iter_disk_pack_index(original: Any, packs: Any) -> Iterator[Any]:
    """Read the list of packs from disk, and look up what is known of these."""
    packs._lpserve_known = None
    entries = list(original(packs))
    directory = memory.local_path(packs._index_transport)
    if directory is not None:
        sizes = {
            key[0].decode("ascii"): list(packs._parse_index_sizes(value))
            for _, key, value in entries
        }
        packs._lpserve_known = cache.names_read(directory + "/", sizes)
    return iter(entries)


def _parents_of(original: Any, repository: Any, revision_ids: Any) -> Any:
    known = known_of(repository)
    if known is None or not _agree(known, repository._pack_collection):
        return original(repository, revision_ids)
    result, missing = {}, []
    for revision_id in revision_ids:
        parents = known.parents(revision_id)
        if parents is None:
            missing.append(revision_id)
        else:
            result[revision_id] = parents
    if missing:
        found = original(repository, missing)
        known.learn(found)
        result.update(found)
    return result


def _agree(known: RepositoryView, packs: Any) -> bool:
    """Whether the graph and the newer packs agree; see `RepositoryView.compare`."""
    if known.exact or known.graph is None:
        return True
    if known.read.agree is None:
        known.read.agree = False
        # Breezy reports a damaged index, if it needs that.
        with contextlib.suppress(Exception):
            added = known.names.difference(known.graph.facts["packs"])
            # New objects: a failure would change the state of Breezy's.
            indices = [packs._make_index(name, ".rix") for name in added]
            known.read.agree = known.compare(_parents_in(indices))
    return known.read.agree


def _parents_in(indices: list[Any]) -> dict[bytes, tuple[bytes, ...]]:
    """The parents of all revisions in *indices*, as Breezy represents them."""
    if sum(index.key_count() for index in indices) > memory.MOST_OTHERS:
        raise ValueError("they are too many")
    return {
        key[0]: tuple(each[0] for each in references[0]) or memory.NO_PARENTS
        for index in indices
        for _, key, _, references in index.iter_all_entries()
    }


def _parents_of_all(original: Any, repository: Any, revision_ids: Any) -> Any:
    """Like `_parents_of`, for a method that also asks the stacked-on repositories."""
    if repository._fallback_repositories:
        return original(repository, revision_ids)
    return _parents_of(original, repository, revision_ids)


def _read_nodes(original: Any, index: Any, numbers: Any) -> Iterator[Any]:
    """Nodes of an index, from the cache if this connection has read them all."""
    nodes = _nodes_of(index) if len(numbers) < memory.MANY_NODES else None
    if nodes is None:
        yield from original(index, numbers)
    elif nodes and all(number in nodes for number in numbers):
        for number in numbers:
            if number == 0:
                _set_header(index, nodes["header"])
            yield number, nodes[number]
    else:
        for number, node in original(index, numbers):
            if number == 0:
                nodes["header"] = _header(index)
            cache.add_node(nodes, number, node)
            yield number, node


def _nodes_of(index: Any) -> dict[Any, Any] | None:
    if index._size is None or index._file is not None or index._base_offset:
        return None
    nodes: dict[Any, Any] | None
    try:
        nodes = index._lpserve_nodes
    except AttributeError:
        directory = memory.local_path(index._transport)
        nodes = None
        if directory is not None:
            nodes = cache.nodes(f"{directory}/{index._name}", index._size)
        index._lpserve_nodes = nodes
    return nodes


#: The attributes that reading the first node sets.
_HEADER = (
    "node_ref_lists",
    "_key_length",
    "_key_count",
    "_row_lengths",
    "_row_offsets",
)


def _header(index: Any) -> list[Any]:
    return [getattr(index, name) for name in _HEADER]


def _set_header(index: Any, header: list[Any]) -> None:
    for name, value in zip(_HEADER, header, strict=True):
        setattr(index, name, value)


def _answer_parent_map(original: Any, request: Any, body: bytes) -> Any:
    """``Repository.get_parent_map``: the first request of a client for a head.

    The loader has computed the answer.
    """
    if body == memory.NOTHING_SEEN and not request.no_extra_results:
        asked = set(request._revision_ids)
        known = known_of(request._repository, exact=True)
        if known and known.graph and len(asked) == 2 and b"include-missing:" in asked:
            asked.remove(b"include-missing:")
            answer = known.graph.answer(asked.pop())
            if answer is not None:
                return SuccessfulSmartServerResponse((b"ok",), answer)
    return original(request, body)


def _answer_revision_graph(
    original: Any, request: Any, repository: Any, revision_id: bytes
) -> Any:
    """``Repository.get_revision_graph`` of one revision."""
    known = known_of(repository, exact=True)
    if known and known.graph and revision_id:
        lines = known.graph.ancestry(revision_id)
        if lines is not None:
            return SuccessfulSmartServerResponse((b"ok",), lines)
    return original(request, repository, revision_id)


_WRAPPERS: tuple[knowncode.Wrapper, ...] = (
    (_Packs, "_iter_disk_pack_index", _iter_disk_pack_index),
    (repository.Repository, "_get_parent_map_no_fallbacks", _parents_of),
    (vf_repository.VersionedFileRepository, "get_parent_map", _parents_of_all),
    (_Index, "_read_nodes", _read_nodes),
    (_ParentMap, "_do_repository_request", _answer_parent_map),
    (_RevisionGraph, "do_readlocked_repository_request", _answer_revision_graph),
)
