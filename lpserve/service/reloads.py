# SPDX-License-Identifier: GPL-2.0-or-later

"""Carries out reloads one at a time; answers them when the new zygote is ready."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..wire import FAILED, STOPPING, encode_error
from .doors import Reply
from .zygotes import Zygotes

if TYPE_CHECKING:
    from ..settings import Settings

log = logging.getLogger("lpserve")


class Reloads:
    """Reads the settings afresh, and starts a new zygote to read everything else.

    :param load_settings: reads the options; raises ConfigurationError, also when
        `Reloads` is created.
    :ivar settings: the current settings.
    :ivar done, failed: how many reloads there were.
    """

    def __init__(self, load_settings: Callable[[], Settings]):
        self.done = self.failed = 0
        self.settings = load_settings()
        self._load_settings = load_settings
        self._asked: list[Reply] = []
        self._again: list[Reply] = []

    def ask(self, zygotes: Zygotes, *replies: Reply) -> None:
        """Begin a reload; *replies* get the answer when it has ended."""
        if zygotes.successor is not None:
            # It may have read the old state, so reload once more after it.
            self._again.extend(replies)
            return
        try:
            self.settings = self._load_settings()
        except Exception as error:
            self.failed += 1
            log.error("cannot reload: %s", error)
            _answer(replies, encode_error(FAILED, str(error)))
            return
        log.info("reloading")
        self._asked.extend(replies)
        zygotes.replace()

    def stop(self) -> None:
        """Answer all pending reloads, because the service stops."""
        answer = encode_error(STOPPING, "the service is stopping")
        _answer([*self._asked, *self._again], answer)
        self._asked, self._again = [], []

    def end(self, zygotes: Zygotes, answer: bytes, failed: bool = False) -> None:
        """Send *answer* for the current reload; begin the next one, if any."""
        if self._asked and failed:
            self.failed += 1
        elif self._asked:
            self.done += 1
        _answer(self._asked, answer)
        self._asked, again, self._again = [], self._again, []
        if again:
            self.ask(zygotes, *again)


def _answer(replies: list[Reply] | tuple[Reply, ...], answer: bytes) -> None:
    for reply in replies:
        reply.send(answer)
        reply.close()
