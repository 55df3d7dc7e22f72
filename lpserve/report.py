# SPDX-License-Identifier: GPL-2.0-or-later

"""Formats the answer to ``status`` as a table."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any


def format_status(text: str) -> str:
    """Format the JSON of a ``status`` answer as a table."""
    status = json.loads(text)
    rows: list[tuple[str, Any]] = [
        ("service", f"lpserve {status['version']}, pid {status['pid']}"),
        ("state", f"{status['state']}, up {format_seconds(status['uptime'])}"),
        *_drained(status),
        *_predecessors(status),
        ("runtime directory", status["runtime_dir"]),
        ("doors", ", ".join(status["doors"])),
        ("generation", _generation(status)),
        *_rehearsal(status),
        *_sandbox(status),
        *_access(status),
        ("workers", _counts(status["workers"])),
        ("totals", _counts(status["totals"])),
        ("refused", _counts(status["refused"]) or "none"),
        ("descriptors", status["descriptors"]),
        *_access_log(status),
        *_streams(status),
        ("warm repositories", _warm(status)),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}\n" for name, value in rows]
    lines += [f"  {each['path']}: {_repository(each)}\n" for each in status["warm"]]
    lines += [f"WARNING: {each}\n" for each in status.get("warnings", ())]
    return "".join(lines)


def _drained(status: dict[str, Any]) -> list[tuple[str, str]]:
    message = status.get("drained")
    return [] if message is None else [("out of service", message)]


def _predecessors(status: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (
            "before an upgrade",
            f"pid {each['pid']}, lpserve {each['version']}: "
            f"{each['connections']} connections to finish",
        )
        for each in status.get("predecessors", ())
    ]


def _warm(status: dict[str, Any]) -> str:
    whole = status["warm_set"]
    if whole["off"]:
        return f"none: {whole['off']}"
    count = sum(each["state"] == "warm" for each in status["warm"])
    return f"{count}, {_mebibytes(whole['bytes'])}, edition {whole['edition']}"


def _streams(status: dict[str, Any]) -> list[tuple[str, str]]:
    if (found := status.get("streams")) is None:
        return []
    if found["off"]:
        return [("kept streams", f"none: {found['off']}")]
    sizes = f"{_mebibytes(found['bytes'])} of {_mebibytes(found['limit'])}"
    text = f"{found['kept']}, {sizes}"
    if found["fault"]:
        text += f"; {found['fault']}"
    counts = {
        "kept": found["hits"],
        "followed": found["followed"],
        "made": found["misses"],
        "being made": found["making"],
        "waiting": found["waiting"],
    }
    served = f"{_counts(counts)}; {_mebibytes(found['bytes_served'])} of kept ones"
    return [("kept streams", text), ("streams", served)]


def _repository(each: dict[str, Any]) -> str:
    parts = [each["state"]]
    if each["state"] == "warm":
        parts.append(
            f"{each['revisions']} revisions, {_mebibytes(each['bytes'])}, loaded "
            f"{format_seconds(each['age'])} ago in {each['load_seconds']} s"
        )
    if "why" in each:
        parts.append(f"{each['why']}; again in {format_seconds(each['retry'])}")
    parts.append(f"{each['hits']} hits of {each['uses']} uses")
    return ", ".join(parts)


def _mebibytes(number: int) -> str:
    return f"{number / (1 << 20):.1f} MiB"


def _generation(status: dict[str, Any]) -> str:
    if status["generation"] is None:
        return "none: a zygote is being started"
    text = str(status["generation"])
    if status.get("loaded"):
        text += f", loaded {_clock(status['loaded'])}, Breezy {status['breezy']}"
    return f"{text} (zygote {status['zygote']}, {status['modules']} modules loaded)"


def _clock(text: str) -> str:
    """The local time of day, with the date if that is not today."""
    moment = datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone()
    today = moment.date() == datetime.now().date()
    return moment.strftime("%H:%M" if today else "%Y-%m-%d %H:%M")


def _access_log(status: dict[str, Any]) -> list[tuple[str, str]]:
    if not (found := status.get("access_log")):
        return []
    text = found["path"]
    if found["lost"]:
        text += f", {found['lost']} lines lost"
    if found["fault"]:
        text += f"; {found['fault']}"
    return [("access log", text)]


def _rehearsal(status: dict[str, Any]) -> list[tuple[str, str]]:
    failed = status.get("rehearsal")
    if failed is None:
        return []
    again = format_seconds(failed["retry"])
    return [("rehearsal", f"failed: {failed['why']}; again in {again}")]


def _sandbox(status: dict[str, Any]) -> list[tuple[str, str]]:
    if (found := status.get("sandbox")) is None:
        return []
    if found["holds"] == "off":
        return [("sandbox", f"off: {found['why'] or 'lpserve.sandbox says so'}")]
    text = f"{found['holds']} ({found['asked']}), Landlock {found['abi']}"
    return [("sandbox", text)]


def _access(status: dict[str, Any]) -> list[tuple[str, str]]:
    if (found := status.get("access")) is None:
        return []
    count = found["sections"]
    text = "nobody is let in" if count is None else f"{count} sections"
    if found["fault"] and count is not None:
        text += ", as they were before it was changed for the worse"
    return [("access rules", f"{found['file']}: {text}")]


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.items())


def format_seconds(seconds: float) -> str:
    """*seconds* as days, hours, minutes and seconds, the two largest of them."""
    rest = int(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])
