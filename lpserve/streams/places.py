# SPDX-License-Identifier: GPL-2.0-or-later

"""Where records lie: in which block of which pack. All are looked up at once.

A group-compress repository keeps the texts of its revisions, inventories, pages and
files as records in blocks, which are compressed. Breezy looks up each record for
itself, and keeps an object of several for each.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from breezy.transport import NoSuchFile

#: A block: the index of its pack, and b"START LENGTH", its place in that pack.
Block = tuple[Any, bytes]
#: A record in its block: where it starts and ends in the content of that, its key, and
#: the keys of its parents, or None where the repository keeps none.
Record = tuple[int, int, tuple[bytes, ...], Any]
Places = dict[Block, list[Record]]

#: Which part of the keys of an index is looked up by reading all of it.
_PART = 3


def look_up(files: Any, keys: set[Any]) -> Places:
    """The places of those of *keys* that are present.

    :param files: a ``GroupCompressVersionedFiles`` of Breezy.
    """
    graph = files._index._graph_index
    while True:
        try:
            return _look_up(files, keys)
        except NoSuchFile as error:
            if not graph._try_reload(error):
                raise


def _indices(files: Any) -> list[Any]:
    """The indices of all packs, in an order that depends on their names alone.

    Breezy's order depends on what was looked up before, and on what is in memory.
    """
    indices = files._index._graph_index._indices
    return sorted(indices, key=lambda index: getattr(index, "_name", ""))


def _look_up(files: Any, keys: set[Any]) -> Places:
    places: Places = {}
    has_parents = files._index._parents
    most = len(keys) * _PART >= files._index._graph_index.key_count()
    left = set(keys)
    for index in _indices(files):
        if left:
            found = index.iter_all_entries() if most else index.iter_entries(left)
            _enter(places, found, left, has_parents)
    return places


def _enter(
    places: Places, entries: Iterable[Any], left: set[Any], has_parents: bool
) -> None:
    """Add those of *entries* that are *left* to *places*."""
    get = places.get
    for entry in entries:
        if entry[1] not in left:
            continue
        left.remove(entry[1])  # Breezy's index has made a set of its own
        # The value is b"START LENGTH RECORD_START RECORD_END".
        where, start, end = entry[2].rsplit(b" ", 2)
        block = (entry[0], where)
        records = get(block)
        if records is None:
            records = places[block] = []
        parents = entry[3][0] if has_parents else None
        records.append((int(start), int(end), entry[1], parents))


def count(places: Places) -> int:
    """How many records there are in *places*."""
    return sum(map(len, places.values()))


def keys_in(places: Places) -> set[Any]:
    """The keys of the records in *places*."""
    return {record[2] for records in places.values() for record in records}


def in_order(files: Any, places: Places) -> list[Block]:
    """The blocks of *places* as they lie in the packs; sorts their records, too."""
    for records in places.values():
        records.sort()  # no two have the same key: parents are not compared
    numbers = {index: number for number, index in enumerate(_indices(files))}
    return sorted(
        places, key=lambda block: (numbers.get(block[0], -1), *extent_of(block))
    )


def extent_of(block: Block) -> tuple[int, int]:
    """Where *block* starts in its pack, and its length there, in bytes."""
    start, length = block[1].split(b" ")
    return int(start), int(length)
