# SPDX-License-Identifier: GPL-2.0-or-later

"""Checks the directory of kept streams."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator

from .. import streamdirectory
from ..errors import os_fault
from ..root import is_shared
from ..settings import Settings
from .findings import Finding, warning
from .place import Place
from .unitfiles import find_unit


def check_streams(place: Place, settings: Settings) -> Iterator[Finding]:
    """Check that streams can be kept, if they are to be."""
    path = streamdirectory.find(settings.stream_cache, _environment(place))
    if not (path and settings.directory and is_shared(settings.directory)):
        return
    quoted = shlex.quote(path)
    made = f"install -d -o {place.account} -m 0700 {quoted}"
    if fault := streamdirectory.place_fault(path, settings.directory):
        yield warning(
            f"no streams are kept: {fault}",
            "set lpserve.stream_cache to a directory elsewhere, or to off",
        )
    elif os.path.lexists(path):
        try:
            fault = streamdirectory.fault(path)
        except OSError as problem:
            fault = os_fault(problem)
        if fault:
            remedy = f"chown {place.account} {quoted}; chmod 0700 {quoted}"
            if not os.path.isdir(path) or os.path.islink(path):
                remedy = f"rm {quoted}; {made}"
            yield warning(f"no streams are kept: {fault}", remedy)
    elif settings.stream_cache:
        above = os.path.dirname(path)
        while not os.path.lexists(above):
            above = os.path.dirname(above)
        if not os.path.isdir(above) or not os.access(above, os.W_OK | os.X_OK):
            yield warning(
                f"no streams are kept: there is no {path}, and {place.account} cannot "
                f"make it in {above}",
                made,
            )


def _environment(place: Place) -> dict[str, str]:
    """That of the service, as far as it says where the directory is."""
    environ = dict(os.environ)
    unit = find_unit("lpserve.service", place.units)
    name = unit.last("Service", "CacheDirectory") if unit else None
    if name:
        environ["CACHE_DIRECTORY"] = f"/var/cache/{name.split()[0]}"
    return environ
