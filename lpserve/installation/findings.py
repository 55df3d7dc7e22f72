# SPDX-License-Identifier: GPL-2.0-or-later

"""What a check has found, and how it is shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

#: An installation with one of these is not sound.
ERROR, WARNING = "error", "warning"
#: What is as somebody may want it, or could not be checked.
NOTE = "note"

_SEVERITIES = (ERROR, WARNING, NOTE)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    :ivar severity: `ERROR`: somebody cannot be served, or is served what he must not
        be; `WARNING`: it will do harm some day, or slows connections down; `NOTE`.
    :ivar what: one line.
    :ivar remedy: one line: what to do.
    """

    severity: str
    what: str
    remedy: str


def error(what: str, remedy: str) -> Finding:
    """A `Finding` of the severity `ERROR`."""
    return Finding(ERROR, _line(what), _line(remedy))


def warning(what: str, remedy: str) -> Finding:
    """A `Finding` of the severity `WARNING`."""
    return Finding(WARNING, _line(what), _line(remedy))


def note(what: str, remedy: str) -> Finding:
    """A `Finding` of the severity `NOTE`."""
    return Finding(NOTE, _line(what), _line(remedy))


def _line(text: str) -> str:
    """*text* as one line without control characters: parts of it are from files."""
    return "".join(each if each.isprintable() else "?" for each in text)


def sort(findings: Sequence[Finding]) -> list[Finding]:
    """The *findings* without duplicates, the gravest first."""
    return sorted(
        dict.fromkeys(findings), key=lambda each: _SEVERITIES.index(each.severity)
    )


def problems(findings: Sequence[Finding]) -> list[Finding]:
    """Those of *findings* that are more than a note."""
    return [each for each in findings if each.severity != NOTE]


def format_text(findings: Sequence[Finding]) -> str:
    """Two lines for each finding, and one if there is no problem."""
    lines = []
    for each in findings:
        lines += [f"{each.severity}: {each.what}", f"    {each.remedy}"]
    if not problems(findings):
        lines.append("no problems found")
    return "".join(f"{line}\n" for line in lines)


def format_json(findings: Sequence[Finding]) -> str:
    """A JSON document on one line."""
    return json.dumps({"findings": [asdict(each) for each in findings]}) + "\n"
