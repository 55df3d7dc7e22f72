# SPDX-License-Identifier: GPL-2.0-or-later

"""Figures: statistics, tables, and what is known of the machine."""

from __future__ import annotations

import contextlib
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest of *values* that at least *part* (0 to 1) of them do not pass."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def median(values: Sequence[float]) -> float:
    """The middle one of *values*, or the mean of the two in the middle."""
    ordered = sorted(values)
    half = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[half]
    return (ordered[half - 1] + ordered[half]) / 2


def summary(values: Sequence[float]) -> dict[str, float]:
    """Number, p10, median, p99, least and greatest of *values*."""
    return {
        "count": len(values),
        "p10": percentile(values, 0.1),
        "median": median(values),
        "p99": percentile(values, 0.99),
        "min": min(values),
        "max": max(values),
    }


def processor() -> str:
    """What this machine computes with."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    return platform.machine()


def filesystem(path: str) -> str:
    """The type of the file system that *path* is on."""
    best = ("", "unknown")
    with contextlib.suppress(OSError), open("/proc/self/mounts") as file:
        for line in file:
            place, kind = line.split()[1:3]
            if os.path.commonpath([path, place]) == place:
                best = max(best, (place, kind))
    return best[1]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table for people: the first column to the left, figures to the right."""
    lines = [list(head), *([str(each) for each in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=False)]
    text = ""
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [
            cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=False)
        ]
        text += "  ".join(cells).rstrip() + "\n"
    return text


def ms(seconds: float) -> str:
    """*seconds* in milliseconds."""
    return f"{seconds * 1000:.2f}"


def us(seconds: float) -> str:
    """*seconds* in microseconds."""
    return f"{seconds * 1e6:.0f}"


def times_table(
    title: str, times: Mapping[str, Sequence[float]], ratio_to: str | None = None
) -> str:
    """A table of seconds by side: runs, p10, median, p99, least and greatest, in ms.

    :param ratio_to: a side; how many times less than that the others take.
    """
    head = [title, "runs", "p10", "median", "p99", "min", "max"]
    rows = []
    for side, values in times.items():
        found = summary(values)
        names = ("p10", "median", "p99", "min", "max")
        row = [side, len(values), *(ms(found[name]) for name in names)]
        if ratio_to is not None:
            row.append(f"{median(times[ratio_to]) / found['median']:.1f}")
        rows.append(row)
    return table([*head, *(["ratio"] if ratio_to else [])], rows)


def target(
    figure: str,
    measured: float,
    wanted: float,
    unit: str = "times",
    at_most: bool = False,
) -> dict[str, Any]:
    """What is measured, and what it is to be at least (or at most)."""
    return {
        "figure": figure,
        "measured": float(f"{measured:.4g}"),
        "wanted": wanted,
        "unit": unit,
        "at_most": at_most,
        "reached": measured <= wanted if at_most else measured >= wanted,
    }


def shown_target(each: Mapping[str, Any]) -> str:
    """A line on a `target`."""
    verdict = "reached" if each["reached"] else "MISSED"
    return (
        f"{each['figure']}: {each['measured']:g} {each['unit']} "
        f"(wanted: {wanted(each)}) {verdict}"
    )


def wanted(each: Mapping[str, Any]) -> str:
    """What a `target` is to be."""
    bound = "at most" if each["at_most"] else "at least"
    return f"{bound} {each['wanted']:g} {each['unit']}"
