# SPDX-License-Identifier: GPL-2.0-or-later

"""Checks the access rules."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from ..settings import Settings
from .findings import Finding, error, warning
from .modes import check_trusted
from .place import Place


def check_access(place: Place, settings: Settings) -> Iterator[Finding]:
    """Check the file that lpserve.access names, if it names one."""
    values: dict[str, Any] = settings.for_worker()
    if not values.get("access"):
        return
    accessfile = importlib.import_module("..accessfile", __package__)
    file = accessfile.open_access_file(values)
    yield from check_trusted(file.path, place.uid, place.account)
    file.look()
    if file.rules is None:
        yield error(
            f"access rules: {file.fault}: the service lets nobody in at its next start",
            f"correct it, and try: brz lp-serve-control access --check={file.path}",
        )
        return
    for line in accessfile.find_pretences(file.rules, settings.directory):
        yield warning(f"access rules: {line}", f"correct {file.path}")
