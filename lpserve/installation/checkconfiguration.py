# SPDX-License-Identifier: GPL-2.0-or-later

"""Checks breezy.conf of the account."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ..advice import odd_options
from ..errors import ConfigurationError
from ..location import uid_of
from ..root import expand, parse_sandbox_paths
from ..settings import Settings, invalid_options
from .findings import Finding, error, warning
from .modes import check_trusted
from .place import Place


def check_file(place: Place) -> Iterator[Finding]:
    """Check that breezy.conf is there, and written by those only who may."""
    if not os.path.exists(place.config):
        yield error(
            f"{place.config} is missing: nothing says what is served",
            "write it; 'brz lp-serve-setup files DIR' makes one to start with",
        )
        return
    for path in (place.config, os.path.dirname(place.config)):
        yield from check_trusted(path, place.uid, place.account)
    if not os.access(place.config, os.R_OK):
        yield error(
            f"{place.config} cannot be read by {place.account}",
            f"chown {place.account} {place.config}",
        )


def check_options(place: Place) -> Iterator[Finding]:
    """Check that each option exists, and has a value that it can have."""
    faults = invalid_options()
    for line in faults:
        yield error(line, f"correct it in {place.config}; see 'brz help lpserve'")
    try:
        for line in odd_options():
            yield warning(line, f"correct or remove the line in {place.config}")
    except Exception as fault:
        # Breezy raises various exceptions; `invalid_options` has said why.
        if not faults:
            yield error(f"{place.config}: {fault}", "correct it")


def check_values(place: Place, settings: Settings) -> Iterator[Finding]:
    """Check what options mean together, and on this host."""
    correct = f"correct it in {place.config}"
    try:
        expand(settings.directory, place.account)
    except ConfigurationError as fault:
        yield error(str(fault), f"set lpserve.directory in {place.config}")
    try:
        for path, _ in parse_sandbox_paths(settings.sandbox_paths):
            if not os.path.exists(path):
                yield warning(f"lpserve.sandbox_paths: {path} is not there", correct)
    except ConfigurationError as fault:
        yield error(str(fault), correct)
    for name in settings.allowed_peers:
        if uid_of(name) == -1:
            yield error(f"lpserve.allowed_peers: there is no user {name}", correct)
    if settings.service_user and uid_of(settings.service_user) == -1:
        yield error(
            f"lpserve.service_user: there is no user {settings.service_user}", correct
        )
    if settings.max_workers and settings.spare_workers > settings.max_workers:
        yield warning(
            f"lpserve.spare_workers ({settings.spare_workers}) is more than "
            f"lpserve.max_workers ({settings.max_workers})",
            correct,
        )
    if settings.queue_timeout >= settings.connect_timeout:
        yield warning(
            f"lpserve.queue_timeout ({settings.queue_timeout:g} s) is not less than "
            f"lpserve.connect_timeout ({settings.connect_timeout:g} s), for which "
            "clients wait",
            correct,
        )
    for path in settings.warm_preload:
        if not os.path.isdir(path):
            yield warning(
                f"lpserve.warm_preload: there is no repository {path}", correct
            )
