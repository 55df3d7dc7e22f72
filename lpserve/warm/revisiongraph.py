# SPDX-License-Identifier: GPL-2.0-or-later

"""The compact format of a revision graph, which processes share by mapping it.

The graph is one sequence of bytes. Objects are created only for the revisions that are
looked up. Therefore the cost of a fork does not depend on its size, and no reference
count is written into shared pages.

Revisions are numbered so that parents come before children. The parts, in this
order, are::

    header    struct _HEADER
    lines     of each revision: REVISION PARENT..., separated by newlines
    starts    uint32 for each revision, and one more: where its line starts
    first     uint32: the number of its first parent; the count of revisions if none
    more      uint32, and one more: where its further parents start in `others`
    others    uint32: numbers of further parents
    table     uint32: 1 + number, at the hash of the id; 0 in empty slots
    facts     JSON: `RevisionGraph.facts`, and the lengths of the answers
    answers   see `RevisionGraph.answer`
"""

from __future__ import annotations

import json
import struct
import zlib
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

ParentMap = Mapping[bytes, Sequence[bytes]]

_MAGIC = b"lp-rev1\n"
# The magic; the numbers of revisions, of further parents and of slots in the table; the
# lengths in bytes of lines, facts and answers; the number of revisions with ghost
# parents; 0.
_HEADER = struct.Struct("=8sIIIIIIII")
_SEPARATORS = (b" ", b"\n", b"\0")


class BadGraph(ValueError):
    """The graph cannot be encoded, or the data is not an encoded graph."""


def build(
    parent_map: ParentMap,
    answers: Mapping[bytes, bytes] | None = None,
    facts: Any = None,
) -> bytes:
    """Encode *parent_map*.

    :param parent_map: the parents of each revision; parents that are not keys are
        ghosts.
    :param answers: bytes to keep for some of the revisions.
    :param facts: an object for `RevisionGraph.facts` that JSON can represent.
    :raises BadGraph: for ids with a separator in them, and for cycles.
    """
    order = _parents_first(parent_map)
    number_of = {revision: number for number, revision in enumerate(order)}
    nobody = len(order)
    lines = []
    starts = array("I")
    first, more, others = array("I"), array("I"), array("I")
    start = 0
    for revision in order:
        parents = parent_map[revision]
        line = b" ".join((revision, *parents))
        _check(revision, parents, line)
        lines.append(line)
        starts.append(start)
        start += len(line) + 1
        numbers = [number_of.get(parent, nobody) for parent in parents]
        first.append(numbers[0] if numbers else nobody)
        more.append(len(others))
        others.extend(numbers[1:])
    starts.append(start)
    more.append(len(others))
    table = _make_table(order)
    kept = answers or {}
    index = [[number_of[each], len(body)] for each, body in kept.items()]
    described = json.dumps({"facts": facts, "answers": index}).encode()
    text = b"".join(line + b"\n" for line in lines)
    bodies = b"".join(kept.values())
    header = _HEADER.pack(
        _MAGIC,
        len(order),
        len(others),
        len(table),
        len(text),
        len(described),
        len(bodies),
        sum(any(p not in number_of for p in parent_map[each]) for each in order),
        0,
    )
    # The arrays are read in place, so they are aligned to their items.
    padding = b"\n" * (-(len(header) + len(text)) % 4)
    arrays = [part.tobytes() for part in (starts, first, more, others, table)]
    return b"".join([header, text, padding, *arrays, described, bodies])


def _check(revision: bytes, parents: Sequence[bytes], line: bytes) -> None:
    spaces = sum(map(line.count, _SEPARATORS))
    if spaces != len(parents) or not all((revision, *parents)):
        raise BadGraph(f"a revision id that cannot be kept: {revision!r}")


def _parents_first(parent_map: ParentMap) -> list[bytes]:
    """All revisions, each after its parents, with mainlines contiguous if possible."""
    order: list[bytes] = []
    seen: dict[bytes, bool] = {}  # whether it is in `order` already
    for head in sorted(heads(parent_map)):
        pending = [head]
        while pending:
            revision = pending[-1]
            if revision in seen:
                pending.pop()
                if not seen[revision]:
                    seen[revision] = True
                    order.append(revision)
                continue
            seen[revision] = False
            for parent in reversed(parent_map[revision]):
                if parent in parent_map and not seen.get(parent, False):
                    if parent in seen:
                        raise BadGraph(f"a revision is its own ancestor: {parent!r}")
                    pending.append(parent)
    if len(order) != len(parent_map):
        raise BadGraph("some revisions have only each other as descendants")
    return order


def heads(parent_map: ParentMap) -> list[bytes]:
    """The revisions that are not parents of others."""
    parents = {parent for each in parent_map.values() for parent in each}
    return [revision for revision in parent_map if revision not in parents]


def _make_table(order: Sequence[bytes]) -> array[int]:
    size = 4
    while size < 2 * len(order):
        size *= 2
    table = array("I", bytes(4 * size))
    for number, revision in enumerate(order):
        place = zlib.crc32(revision) & (size - 1)
        while table[place]:
            place = (place + 1) & (size - 1)
        table[place] = number + 1
    return table


class RevisionGraph:
    """Reads a graph that `build` has encoded.

    :param data: the bytes, usually a mapping.
    :ivar facts: the argument of `build`.
    :raises BadGraph: if *data* is not an encoded graph.
    """

    def __init__(self, data: Any):
        self._parts = memoryview(data)
        try:
            (
                magic,
                count,
                others,
                table,
                text,
                described,
                _,
                self._with_ghosts,
                _,
            ) = _HEADER.unpack(self._parts[: _HEADER.size])
        except struct.error as error:
            raise BadGraph(str(error)) from None
        self._count: int = count
        if magic != _MAGIC:
            raise BadGraph("not a revision graph")
        end = _HEADER.size + text
        end += -end % 4
        self._arrays = []
        for length in (self._count + 1, self._count, self._count + 1, others, table):
            part = self._parts[end : end + 4 * length]
            if len(part) != 4 * length:
                raise BadGraph("it was cut")
            self._arrays.append(part.cast("I"))
            end += 4 * length
        self._starts, self._first, self._more, self._others, self._table = self._arrays
        about = json.loads(bytes(self._parts[end : end + described]))
        self.facts: Any = about["facts"]
        self._answers: dict[int, tuple[int, int]] = {}
        end += described
        for number, length in about["answers"]:
            self._answers[number] = (end, end + length)
            end += length

    def __len__(self) -> int:
        return self._count

    def close(self) -> None:
        """Release the data; other methods must not be called afterwards."""
        for part in (*self._arrays, self._parts):
            part.release()

    def _line(self, number: int) -> bytes:
        base = _HEADER.size
        starts = self._starts
        return bytes(self._parts[base + starts[number] : base + starts[number + 1] - 1])

    def _find(self, revision: bytes) -> tuple[int, list[bytes]] | None:
        """The number of *revision*, and the list of it and its parents; or None."""
        table = self._table
        mask = len(table) - 1
        place = zlib.crc32(revision) & mask
        while number := table[place]:
            words = self._line(number - 1).split(b" ")
            if words[0] == revision:
                return number - 1, words
            place = (place + 1) & mask
        return None

    def parents(self, revision: bytes) -> tuple[bytes, ...] | None:
        """The parents of *revision*, ghosts included; None if it is not known."""
        found = self._find(revision)
        return None if found is None else tuple(found[1][1:])

    def answer(self, revision: bytes) -> bytes | None:
        """The bytes that `build` was given for *revision*, or None."""
        found = self._find(revision)
        if found is None or found[0] not in self._answers:
            return None
        start, end = self._answers[found[0]]
        return bytes(self._parts[start:end])

    def ancestry(self, revision: bytes) -> bytes | None:
        """The lines of *revision* and of all its ancestors.

        :returns: lines of REVISION PARENT..., separated by newlines, without ghosts;
            None if *revision* is not in the graph.
        """
        found = self._find(revision)
        if found is None:
            return None
        number = found[0]
        marks = self._mark_ancestors(number)
        base = _HEADER.size
        if self._with_ghosts:
            return self._without_ghosts(marks)
        starts = self._starts
        pieces = []
        # Runs of lines at once: most of a repository is in the ancestry of a branch.
        start = marks.find(1)
        while start >= 0:
            end = marks.find(0, start)
            end = number + 1 if end < 0 else end
            pieces.append(self._parts[base + starts[start] : base + starts[end] - 1])
            start = marks.find(1, end)
        return b"\n".join(pieces)

    def deepest_heads(self) -> list[bytes]:
        """The revisions that are not parents of others, the longest history first."""
        depths = [0] * (self._count + 1)
        parents = bytearray(self._count + 1)
        for number in range(self._count):
            further = self._others[self._more[number] : self._more[number + 1]]
            for parent in (self._first[number], *further):
                parents[parent] = 1
                depths[number] = max(depths[number], depths[parent] + 1)
        heads = [number for number in range(self._count) if not parents[number]]
        heads.sort(key=lambda number: -depths[number])
        return [self._line(number).split(b" ")[0] for number in heads]

    def _mark_ancestors(self, number: int) -> bytearray:
        """For each revision up to *number*: 1 if it is that or an ancestor, else 0."""
        # The last mark is for missing parents.
        marks = bytearray(self._count + 1)
        marks[number] = 1
        first = self._first[: number + 1].tolist()
        more = self._more[: number + 2].tolist()
        others = self._others[: more[-1]].tolist()
        for each in range(number, -1, -1):
            if marks[each]:
                marks[first[each]] = 1
                if more[each] != more[each + 1]:
                    for parent in others[more[each] : more[each + 1]]:
                        marks[parent] = 1
        del marks[number + 1 :]
        return marks

    def _without_ghosts(self, marks: bytearray) -> bytes:
        lines = []
        for number, mark in enumerate(marks):
            if mark:
                words = self._line(number).split(b" ")
                numbers = [self._first[number]] if len(words) > 1 else []
                numbers += self._others[self._more[number] : self._more[number + 1]]
                there = [
                    word
                    for word, parent in zip(words[1:], numbers, strict=True)
                    if parent < self._count
                ]
                lines.append(b" ".join((words[0], *there)))
        return b"\n".join(lines)
