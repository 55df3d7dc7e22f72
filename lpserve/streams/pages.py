# SPDX-License-Identifier: GPL-2.0-or-later

"""Finds the pages of inventories that are to be sent, and the texts that they name.

An inventory is two maps, each a tree of pages that inventories share. Breezy's
`CHKMapDifference` decides which pages are new; here they are read in bulk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from breezy import errors
from breezy.bzr import chk_map, inventory
from breezy.bzr.pack_repo import RetryWithNewPacks

from .places import Places, count, extent_of, in_order, keys_in, look_up

#: How many items of pages are collected before they become keys of texts: many pages
#: have the same item.
_AT_ONCE = 20000


def texts_of(files: Any, keys: set[Any], places: Places) -> Iterator[tuple[Any, bytes]]:
    """The key and the text of each record, block after block.

    :param files: a ``GroupCompressVersionedFiles`` of Breezy.
    :param places: the places of the records are added.
    :raises NoSuchRevision: if one is absent.
    """
    left = keys
    while left:
        found = look_up(files, left)
        if count(found) != len(left):
            raise errors.NoSuchRevision(files, min(left - keys_in(found)))
        try:
            for block in in_order(files, found):
                memo = (block[0], *extent_of(block))
                ((_, content),) = files._get_blocks([memo])
                content._ensure_content()
                for start, end, key, _ in found[block]:
                    yield key, b"".join(content.extract(key, start, end))
                places.setdefault(block, []).extend(found.pop(block))
            return
        except RetryWithNewPacks as error:
            files._access.reload_or_raise(error)
            # Packs before are gone, and with them places.
            left = keys_in(found)


class Walk(chk_map.CHKMapDifference):
    """`CHKMapDifference`, with keys in place of records.

    :param pages: the ``GroupCompressVersionedFiles`` of pages.
    :param new, old: the keys of the roots of maps.
    :ivar places: those of all pages that were read.
    """

    def __init__(self, pages: Any, new: set[Any], old: set[Any]):
        super().__init__(pages, new, old, pages._search_key_func)
        self.places: Places = {}

    def _read_nodes_from_store(self, keys: Any) -> Iterator[tuple[Any, ...]]:
        search_key = self._search_key_func
        for key, text in texts_of(self._store, set(keys), self.places):
            node = chk_map._deserialise(text, key, search_key_func=search_key)
            if isinstance(node, chk_map.LeafNode):
                yield key, node, (), list(node._items.items())
            else:
                yield key, node, list(node._items.items()), ()


def roots(
    inventories: Any, keys: set[Any], places: Places
) -> tuple[set[Any], set[Any]]:
    """The keys of the roots of the two maps of each inventory.

    :param places: the places of the inventories are added.
    :raises NoSuchRevision: if one is absent.
    """
    entries, names = set(), set()
    for key, text in texts_of(inventories, keys, places):
        lines = text.splitlines(True)
        made = inventory.CHKInventory.deserialise(None, lines, key)
        entries.add(made.id_to_entry.key())
        names.add(made.parent_id_basename_to_file_id.key())
    return entries, names


def find(
    pages: Any, new: tuple[set[Any], set[Any]], old: tuple[set[Any], set[Any]]
) -> tuple[Places, set[Any]]:
    """The pages to be sent, and the keys of the texts that are new in them.

    :param new, old: as `roots` returns them.
    :returns: places of pages, keys of texts.
    """
    texts: set[Any] = set()
    items: set[bytes] = set()
    key_of = chk_map._bytes_to_text_key
    entries = Walk(pages, new[0], old[0])
    wanted = set()
    for key, found in entries.process():
        wanted.add(key)
        items.update([value for _, value in found])
        if len(items) > _AT_ONCE:
            texts.update(map(key_of, items))
            items.clear()
    texts.update(map(key_of, items))
    names = Walk(pages, new[1], old[1])
    wanted.update(key for key, _ in names.process())
    wanted.discard(None)
    places: Places = {}
    for walk in (entries, names):
        for block, records in walk.places.items():
            chosen = []
            for record in records:
                if record[2] in wanted:
                    wanted.remove(record[2])  # once, whichever walks have read it
                    chosen.append(record)
            if chosen:
                places.setdefault(block, []).extend(chosen)
    return places, texts
