# SPDX-License-Identifier: GPL-2.0-or-later

"""Streams a repository to another of the same format, each block once.

Breezy's source sends the texts of files newest first, file by file. That visits the
same blocks again and again, and each visit cuts the block, compresses it anew and sends
it. Here the blocks go out as they lie in the packs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from breezy import revision
from breezy.bzr.groupcompress_repo import GroupCHKStreamSource

from . import blocks, pages
from .places import Places, look_up


class BlockSource(GroupCHKStreamSource):
    """What arrives is what `GroupCHKStreamSource` sends; the order is another.

    It is for the encoder of streams alone: a record is a whole block.
    """

    def get_stream(self, search: Any) -> Iterator[tuple[str, Any]]:
        """The kinds of records in turn, each with its records.

        :param search: a search result of Breezy.
        :raises NoSuchRevision: if an inventory or a page is absent.
        :raises ValueError: if a revision or a text is.
        """
        repository = self.from_repository
        keys = {(revision_id,) for revision_id in search.get_keys()}
        yield "signatures", self._stream(repository.signatures, keys, required=False)
        yield "revisions", self._stream(repository.revisions, keys)
        parents = repository._find_parent_keys_of_revisions(keys)
        repository.revisions.clear_cache()
        repository.signatures.clear_cache()
        # Breezy's source forgets what it knows of parents here, too.
        repository._unstacked_provider.disable_cache()
        repository._unstacked_provider.enable_cache()
        inventories = repository.inventories
        places: Places = {}
        new = pages.roots(inventories, keys, places)
        yield "inventories", blocks.stream(inventories, places)
        old = self._roots_that_are_there(parents)
        inventories.clear_cache()
        places, texts = pages.find(repository.chk_bytes, new, old)
        yield "chk_bytes", blocks.stream(repository.chk_bytes, places)
        repository.chk_bytes.clear_cache()
        yield "texts", self._stream(repository.texts, texts)
        repository.texts.clear_cache()

    @staticmethod
    def _stream(files: Any, keys: set[Any], required: bool = True) -> Iterator[Any]:
        places = look_up(files, keys)
        if required:
            blocks.require_all(places, keys)
        return blocks.stream(files, places)

    def _roots_that_are_there(self, keys: set[Any]) -> tuple[set[Any], set[Any]]:
        """The roots of the inventories that the client has, as far as we have them."""
        keys.discard(revision.NULL_REVISION)
        repository = self.from_repository
        present = repository._find_present_inventory_keys(keys) if keys else set()
        return pages.roots(repository.inventories, present, {})
