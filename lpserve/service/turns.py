# SPDX-License-Identifier: GPL-2.0-or-later

"""Whose turn it is, of those who wait for a place; does no I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, TypeVar


class _Waits(Protocol):
    @property
    def user(self) -> str: ...


Waiting = TypeVar("Waiting", bound=_Waits)


def next_in_line(
    line: Iterable[Waiting],
    held: Mapping[str, int],
    may: Callable[[Waiting], bool] = lambda each: True,
) -> Waiting | None:
    """Who gets the next place; None if nobody may have it.

    It is one of the user who has the fewest places; of users who have as many, the one
    who has waited longest.

    :param line: those who wait, the longest first.
    :param held: how many places each user has.
    :param may: whether one may have a place now.
    """
    firsts: dict[str, Waiting] = {}
    for each in line:
        if each.user not in firsts and may(each):
            firsts[each.user] = each
    return min(firsts.values(), key=lambda each: held.get(each.user, 0), default=None)


def count_down(counts: dict[str, int], name: str) -> None:
    """One less of *name*, which is forgotten at 0."""
    counts[name] -= 1
    if not counts[name]:
        del counts[name]
