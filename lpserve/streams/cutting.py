# SPDX-License-Identifier: GPL-2.0-or-later

"""Cuts from a block what was not asked for.

The content of a block is a sequence of records. Each is b"f", a length and a text, or
b"d", a length and a delta: instructions that copy ranges of the content before them, or
insert bytes. So a text that was asked for may need bytes of one that was not. Breezy
sends such blocks whole where more than half of them is needed. Here what no wanted
record refers to is overwritten with zeros, which compress to nothing.
"""

from __future__ import annotations

from breezy.bzr.groupcompress import decode_base128_int

from .places import Record

#: For each bit of a command, whose byte follows if it is set, how far that is shifted.
_OFFSET = ((0x01, 0), (0x02, 8), (0x04, 16), (0x08, 24))
_LENGTH = ((0x10, 0), (0x20, 8), (0x40, 16))


class CannotCut(Exception):
    """The content is not as expected."""


def gaps(records: list[Record], length: int) -> list[tuple[int, int]]:
    """The ranges of a content of *length* bytes that are of none of *records*.

    :param records: sorted.
    """
    found = []
    position = 0
    for start, end, _, _ in records:
        if start > position:
            found.append((position, start))
        position = max(position, end)
    if position < length:
        found.append((position, length))
    return found


def cut(content: bytes, records: list[Record]) -> bytes:
    """*content* with zeros for all that *records* do not need, up to their last byte.

    :param records: sorted; not all that is in *content*.
    :raises CannotCut: if a record is not as expected.
    """
    holes = gaps(records, len(content))
    result = bytearray(content)
    for start, end in holes:
        result[start:end] = bytes(end - start)
    first, last = holes[0][0], holes[-1][1]
    for start, end, _, _ in records:
        if start < first or start == end:
            continue  # it copies from before any hole, or is an empty text
        for offset, size in _copied(content[start:end]):
            if offset < last and offset + size > first:
                result[offset : offset + size] = content[offset : offset + size]
    if last == len(content):
        del result[holes[-1][0] :]
    return bytes(result)


def _copied(record: bytes) -> list[tuple[int, int]]:
    """The ranges of the content that a record copies: offset and size."""
    if record[:1] == b"f":
        return []
    if record[:1] != b"d":
        raise CannotCut
    size, taken = decode_base128_int(record[1:6])
    position = 1 + taken
    if position + size != len(record):
        raise CannotCut
    wanted, taken = decode_base128_int(record[position : position + 5])
    position += taken
    ranges = []
    made, end = 0, len(record)
    while position < end:
        command = record[position]
        position += 1
        if command < 0x80:  # so many bytes are inserted
            made += command
            position += command
            continue
        offset = length = 0
        for bit, shift in _OFFSET:
            if command & bit:
                offset |= record[position] << shift
                position += 1
        for bit, shift in _LENGTH:
            if command & bit:
                length |= record[position] << shift
                position += 1
        length = length or 0x10000
        ranges.append((offset, length))
        made += length
    if position != end or made != wanted:
        raise CannotCut
    return ranges
