# SPDX-License-Identifier: GPL-2.0-or-later

"""Formats the answer to ``streams`` as a table."""

from __future__ import annotations

import json
from typing import Any

from .report import format_seconds
from .reportconnections import format_bytes, local_time, table

#: How many digits of a key are shown: enough to tell them apart.
DIGITS = 12


def format_streams(text: str) -> str:
    """The JSON of a ``streams`` answer as a table: those being made come first."""
    found = json.loads(text)
    heads = ("STREAM", "STATE", "SIZE", "LAST USED", "USES", "PID", "USER", "FOR")
    rows = [_made(each) for each in found["making"]]
    rows += [
        (*_key(each), "waiting", *[""] * 3, *_who(each)) for each in found["waiting"]
    ]
    rows += [
        (
            *_key(each),
            "kept",
            format_bytes(each["bytes"]),
            local_time(each["last_used"]),
            str(each["uses"]),
            *[""] * 3,
        )
        for each in found["kept"]
    ]
    return table(heads, rows)


def _made(each: dict[str, Any]) -> tuple[str, ...]:
    state = "made, to be kept" if each["keep"] else "made"
    if count := each["followers"]:
        state += f", {count} follow"
    return *_key(each), state, "", "", "", *_who(each)


def _key(each: dict[str, Any]) -> tuple[str]:
    return (each["key"][:DIGITS],)


def _who(each: dict[str, Any]) -> tuple[str, str, str]:
    return str(each["pid"]), each["user"], format_seconds(each["seconds"])
