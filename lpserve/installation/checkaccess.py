# SPDX-License-Identifier: GPL-2.0-or-later

"""Checks the access rules."""

from __future__ import annotations

from collections.abc import Iterator

from ..accessfile import find_pretences, open_access_file
from ..settings import Settings
from .findings import Finding, error, warning
from .modes import check_trusted
from .place import Place


def check_access(place: Place, settings: Settings) -> Iterator[Finding]:
    """Check the file that lpserve.access names, if it names one."""
    file = open_access_file(settings.for_worker())
    if file is None:
        return
    yield from check_trusted(file.path, place.uid, place.account)
    file.look()
    if file.rules is None:
        yield error(
            f"access rules: {file.fault}: the service lets nobody in at its next start",
            f"correct it, and try: brz lp-serve-control access --check={file.path}",
        )
        return
    for line in find_pretences(file.rules, settings.directory):
        yield warning(f"access rules: {line}", f"correct {file.path}")
