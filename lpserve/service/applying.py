# SPDX-License-Identifier: GPL-2.0-or-later

"""Applies settings to the parts of a running service."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..errors import os_fault
from .accounts import Accounts
from .admission import Admission, Limits
from .agent import Agent
from .door import Doors
from .drain import NOTICE, Drain
from .pool import Pool
from .streams import Streams
from .warmer import Warmer

if TYPE_CHECKING:
    from ..settings import Settings

log = logging.getLogger("lpserve")


def apply_to_warmer(settings: Settings, warmer: Warmer) -> None:
    """Apply those about what is in memory, which the first fork needs."""
    warmer.limit(
        settings.warm_repositories,
        settings.warm_memory << 20,
        settings.warm_interval,
        settings.warm_preload,
    )


def apply(
    settings: Settings,
    admission: Admission,
    accounts: Accounts,
    pool: Pool,
    doors: Doors,
    agent: Agent,
    drain: Drain,
    streams: Streams,
) -> None:
    """Apply the others."""
    admission.use(Limits.of(settings))
    accounts.keep(settings.history, settings.access_log)
    pool.hangup_timeout = settings.hangup_timeout
    pool.resize(settings.spare_workers, settings.max_spare_workers)
    agent.listen(settings.agent_address)
    drain.notice = NOTICE if settings.agent_address else 0.0
    streams.use(settings)
    try:
        doors.admit()
    except OSError as error:
        log.error("cannot change who may use the socket: %s", os_fault(error))
