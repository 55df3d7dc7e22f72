# SPDX-License-Identifier: GPL-2.0-or-later

"""Looks at a whole installation and says what is wrong with it; changes nothing."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

from breezy import bedding

from ..errors import ConfigurationError
from ..settings import read_settings
from .checkaccess import check_access
from .checkconfiguration import check_file, check_options, check_values
from .checkdirectories import (
    check_log,
    check_runtime,
    check_served,
    check_space,
    has_socket,
)
from .checkdoors import check_doors, is_served
from .checkprograms import check_client, check_sandbox
from .checkssh import check_ssh
from .checksshd import check_sshd
from .checkstreams import check_streams
from .checkunits import check_units
from .findings import Finding, sort
from .place import Place


def check(place: Place) -> list[Finding]:
    """All that is wrong with an installation, the gravest first.

    This runs as its account, so that what the account may not do is seen.
    """
    return sort(list(_check(place)))


def _check(place: Place) -> Iterator[Finding]:
    yield from check_file(place)
    yield from check_options(place)
    yield from check_client(place, place.find_client())
    try:
        settings = read_settings()
    except ConfigurationError:
        # Which option that is was said. The other checks need the settings.
        return
    yield from check_values(place, settings)
    yield from check_served(place, settings)
    yield from check_access(place, settings)
    yield from check_sandbox(place, settings)
    yield from check_runtime(place, settings)
    yield from check_streams(place, settings)
    log = os.path.join(bedding.cache_dir(), "lpserve.log")
    yield from check_log(place, settings, log)
    yield from check_space(place, settings, tempfile.gettempdir())
    yield from check_units(place, settings)
    # No service is started by a check.
    started = settings.autostart or has_socket(place)
    yield from check_sshd(place, is_served(place) or not started)
    yield from check_ssh(place, settings)
    yield from check_doors(place, settings)
