# SPDX-License-Identifier: GPL-2.0-or-later

"""Connections, as tables for a person to read."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from .report import format_seconds


def format_connections(text: str) -> str:
    """The JSON of a ``connections`` answer as a table."""
    rows: list[tuple[str, ...]] = [
        (
            *_who(each),
            format_seconds(each["seconds"]),
            each["state"],
            " ".join((each["verb"], each["repository"])).strip() or "-",
            *_amounts(each),
            f"{each['cpu']:.1f} s",
            format_bytes(each["memory"]),
        )
        for each in json.loads(text)
    ]
    heads = ("PID", "USER", "FROM", "DOOR", "FOR", "STATE", "REQUEST")
    return table((*heads, "REQUESTS", "IN", "OUT", "CPU", "MEMORY"), rows)


def format_history(text: str) -> str:
    """The JSON of a ``history`` answer as a table."""
    rows: list[tuple[str, ...]] = [
        (
            local_time(each["since"]),
            *_who(each),
            format_seconds(each["seconds"]),
            f"{each['how']} ({each['exit']})",
            " ".join(each["repositories"]) or "-",
            *_amounts(each),
            f"{each['cpu']:.1f} s",
            format_bytes(each["peak_memory"] or 0),
        )
        for each in json.loads(text)
    ]
    heads = ("SINCE", "PID", "USER", "FROM", "DOOR", "FOR", "END", "REPOSITORIES")
    return table((*heads, "REQUESTS", "IN", "OUT", "CPU", "MEMORY"), rows)


def _who(each: dict[str, Any]) -> tuple[str, str, str, str]:
    return str(each["pid"]), each["user"], each["peer"] or "-", each["door"]


def _amounts(each: dict[str, Any]) -> tuple[str, str, str]:
    sizes = format_bytes(each["bytes_in"]), format_bytes(each["bytes_out"])
    return str(each["requests"]), *sizes


def local_time(text: str) -> str:
    """A moment as the service tells it, by the clock of this place."""
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def format_bytes(number: float) -> str:
    """*number* of bytes in three digits or so."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """*rows* below *heads*, each column as wide as it has to be."""
    widths = [max(map(len, column)) for column in zip(heads, *rows)]
    return "".join(
        "  ".join(
            word.ljust(width) for word, width in zip(row, widths, strict=True)
        ).rstrip()
        + "\n"
        for row in (heads, *rows)
    )
