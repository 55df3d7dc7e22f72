# SPDX-License-Identifier: GPL-2.0-or-later

"""Blocks as they go over the wire: each once, with the keys of all that it is sent for.

A block that is wanted whole goes out as its bytes on disk. Of any other goes out what
was asked for, and nothing else.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

from breezy.bzr import groupcompress
from breezy.bzr.pack_repo import RetryWithNewPacks

from . import cutting
from .places import Block, Places, Record, count, extent_of, in_order, keys_in, look_up

#: How many bytes of blocks are read at once, if that is more than one block.
_AT_ONCE = 1 << 20
#: The kind of a record on the wire; Breezy's clients know it.
KIND = "groupcompress-block"


class BlockRecord:
    """What the encoder of streams asks of a record: a block, with all its keys."""

    storage_kind = KIND

    def __init__(self, wire: bytes, key: Any):
        self._wire = wire
        self.key = key

    def get_bytes_as(self, storage_kind: str) -> bytes:
        """The bytes for the wire."""
        return self._wire


def stream(files: Any, places: Places) -> Iterator[BlockRecord]:
    """The blocks in *places*, in the order in which they lie in the packs.

    If packs are replaced meanwhile, what is left is looked up again. *places* is
    consumed.

    :param files: a ``GroupCompressVersionedFiles`` of Breezy.
    """
    while places:
        try:
            for batch in _batches(in_order(files, places)):
                memos = [(block[0], *extent_of(block)) for block in batch]
                raw_blocks = files._access.get_raw_records(memos)
                for block, raw in zip(batch, raw_blocks, strict=True):
                    records = places[block]
                    yield BlockRecord(_wire(files, raw, records), records[0][2])
                    del places[block]
        except RetryWithNewPacks as error:
            files._access.reload_or_raise(error)
            missing = keys_in(places)
            places = look_up(files, missing)
            require_all(places, missing)


def require_all(places: Places, keys: set[Any]) -> None:
    """Check that all *keys* are in *places*.

    :raises ValueError: as Breezy's encoder of streams does for a record that is absent.
    """
    if count(places) != len(keys):
        absent = min(keys - keys_in(places))
        raise ValueError(f"Absent factory for {absent}")


def _batches(blocks: list[Block]) -> Iterator[list[Block]]:
    batch: list[Block] = []
    size = 0
    for block in blocks:
        _, length = extent_of(block)
        if batch and size + length > _AT_ONCE:
            yield batch
            batch, size = [], 0
        batch.append(block)
        size += length
    if batch:
        yield batch


def _wire(files: Any, raw: bytes, records: list[Record]) -> bytes:
    """*records* of a block, whose bytes on disk are *raw*, as one for the wire."""
    length = int(raw.split(b"\n", 3)[2])
    if cutting.gaps(records, length):
        needed = sum(end - start for start, end, _, _ in records)
        block = groupcompress.GroupCompressBlock.from_bytes(raw)
        if needed * 2 < max(end for _, end, _, _ in records):
            return _rebuilt(files, block, records)
        block._ensure_content()
        try:
            block.set_content(cutting.cut(block._content, records))
        except (cutting.CannotCut, IndexError, ValueError):
            return _rebuilt(files, block, records)
        raw = block.to_bytes()
    keys = b"".join(map(_key_lines, records))
    packed = zlib.compress(keys, 3)
    sizes = b"%d\n%d\n%d\n" % (len(packed), len(keys), len(raw))
    return b"".join((KIND.encode(), b"\n", sizes, packed, raw))


def _key_lines(record: Record) -> bytes:
    """The lines about a record that go before its block."""
    start, end, key, parents = record
    join = b"\0".join
    of_parents = b"None:" if parents is None else b"\t".join(map(join, parents))
    return b"%b\n%b\n%d\n%d\n" % (join(key), of_parents, start, end)


def _rebuilt(files: Any, block: Any, records: list[Record]) -> bytes:
    """*records* in a new block, which Breezy compresses."""
    manager = groupcompress._LazyGroupContentManager(
        block, get_compressor_settings=files._get_compressor_settings
    )
    for start, end, key, parents in records:
        manager.add_factory(key, parents, start, end)
    manager._rebuild_block()
    wire: bytes = manager._wire_bytes()
    return wire
