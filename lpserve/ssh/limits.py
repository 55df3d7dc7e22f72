# SPDX-License-Identifier: GPL-2.0-or-later

"""Decides which clients may connect now: max_startups and penalties; does no I/O.

Times are seconds of a monotonic clock. `loginrules` defines what a source is.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..loginrules import REASONS, Rules, is_in, mask, pack


@dataclass
class _Penalty:
    """The penalty of a source; it is refused if *active*."""

    ends: float
    active: bool
    reason: str


@dataclass
class _Table:
    """The penalties of one family of addresses.

    :ivar found: by source.
    :ivar order: a heap with one entry for each source. Its time is the end of the
        penalty, or earlier if the penalty was extended since.
    """

    found: dict[bytes, _Penalty] = field(default_factory=dict)
    order: list[tuple[float, bytes]] = field(default_factory=list)

    def forget(self, now: float, most: int) -> None:
        """Remove penalties that are over, then the next ones while above *most*."""
        while self.order:
            time, source = self.order[0]
            ends = self.found[source].ends
            if time < ends:
                heapq.heapreplace(self.order, (ends, source))
            elif ends <= now or len(self.found) > most:
                heapq.heappop(self.order)
                del self.found[source]
            else:
                break


class Limits:
    """Counts clients that have not logged in, and keeps the penalties of sources.

    :param rules: may be replaced at any time.
    :param draw: returns a random number below its argument.
    :ivar count: of the clients that have not logged in.
    """

    def __init__(self, rules: Rules, draw: Callable[[int], int] = random.randrange):
        self.rules = rules
        self.count = 0
        self._draw = draw
        self._counts: dict[bytes, int] = {}
        self._tables = {4: _Table(), 16: _Table()}

    def source(self, host: str) -> bytes:
        """The source that a client at *host* belongs to."""
        packed = pack(host)
        sizes = self.rules.netblock_size
        return mask(packed, sizes.ipv4 if len(packed) == 4 else sizes.ipv6)

    def refusal(self, host: str, now: float, exempt: bool = False) -> str:
        """Why a client at *host* is refused now; "" if it is not.

        :param exempt: whether penalties do not matter.
        """
        source = self.source(host)
        penalty = "" if exempt else self._penalty(host, source, now)
        if penalty:
            return penalty
        most = self.rules.most_of_a_source
        if most and self._counts.get(source, 0) >= most:
            return "past per_source_max_startups"
        if self.rules.startups.drops(self.count, self._draw(100)):
            return "past max_startups"
        return ""

    def _penalty(self, host: str, source: bytes, now: float) -> str:
        rules = self.rules.penalties
        if not rules.enabled or is_in(host, self.rules.exempt):
            return ""
        table, most = self._table(source)
        table.forget(now, most)
        if rules.deny_all and len(table.found) >= most:
            return "too many penalised addresses"
        found = table.found.get(source)
        return f"penalty: {found.reason}" if found and found.active else ""

    def _table(self, source: bytes) -> tuple[_Table, int]:
        rules = self.rules.penalties
        most = rules.max_sources4 if len(source) == 4 else rules.max_sources6
        return self._tables[len(source)], most

    def begin(self, host: str) -> bytes:
        """Count a client at *host*; its source, for `end`."""
        source = self.source(host)
        self.begin_source(source)
        return source

    def begin_source(self, source: bytes) -> None:
        """Count a client of *source*."""
        self.count += 1
        self._counts[source] = self._counts.get(source, 0) + 1

    def end(self, source: bytes) -> None:
        """A client of *source* has logged in or disconnected."""
        self.count -= 1
        left = self._counts.pop(source) - 1
        if left:
            self._counts[source] = left

    def penalise(self, host: str, kind: str, now: float) -> float:
        """Add a penalty to the source of *host*.

        :param kind: one of `REASONS`.
        :returns: the seconds for which the source is refused from now on; 0 if it is
            not refused, or was refused already.
        """
        rules = self.rules.penalties
        seconds: float = getattr(rules, kind)
        if not rules.enabled or not seconds or is_in(host, self.rules.exempt):
            return 0
        source = self.source(host)
        table, most = self._table(source)
        table.forget(now, most)
        found = table.found.get(source)
        if found is None:
            if rules.deny_all and len(table.found) >= most:
                return 0
            found = table.found[source] = _Penalty(now, False, "")
            heapq.heappush(table.order, (now, source))
        found.ends = min(found.ends + seconds, now + rules.most)
        found.reason = REASONS[kind]
        table.forget(now, most)
        if found.active or found.ends - now <= rules.least:
            return 0
        found.active = True
        return found.ends - now

    def pack(self, now: float) -> list[list[Any]]:
        """The penalties for JSON; see `take`."""
        found: list[list[Any]] = []
        for table in self._tables.values():
            table.forget(now, len(table.found))
            found += (
                [source.hex(), each.ends, each.active, each.reason]
                for source, each in table.found.items()
            )
        return found

    def take(self, packed: list[list[Any]]) -> None:
        """Have the penalties that `pack` has returned, and no others."""
        self._tables = {4: _Table(), 16: _Table()}
        for text, ends, active, reason in packed:
            source = bytes.fromhex(text)
            table = self._tables[len(source)]
            table.found[source] = _Penalty(float(ends), bool(active), str(reason))
            table.order.append((float(ends), source))
        for table in self._tables.values():
            heapq.heapify(table.order)
