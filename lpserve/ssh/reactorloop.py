# SPDX-License-Identifier: GPL-2.0-or-later

"""A Twisted reactor as the event loop that a handover needs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ..conch.fifos import DescriptorWatcher

log = logging.getLogger("lpserve")


class _Timer:
    """A call of the reactor's; see `outbox.Timer`."""

    def __init__(self, call: Any):
        self._call = call

    def cancel(self) -> None:
        """Do not call; no effect after the call."""
        if self._call.active():
            self._call.cancel()


class ReactorLoop:
    """See `outbox.Loop`."""

    def __init__(self, reactor: Any):
        self._reactor = reactor
        self._watchers: dict[int, DescriptorWatcher] = {}

    def watch(self, descriptor: int, readable: Callable[[], object]) -> None:
        """See `outbox.Loop`."""

        def event() -> None:
            try:
                readable()
            except Exception as error:
                # The reactor would watch it no more.
                log.error("unexpected error: %s", error, exc_info=error)

        watcher = DescriptorWatcher(self._reactor, descriptor, event)
        self._watchers[descriptor] = watcher

    def forget(self, descriptor: int) -> None:
        """See `outbox.Loop`."""
        self._watchers.pop(descriptor).stop()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> _Timer:
        """See `outbox.Loop`."""
        return _Timer(self._reactor.callLater(seconds, callback))
