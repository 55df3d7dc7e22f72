# SPDX-License-Identifier: GPL-2.0-or-later

"""Reloads: one at a time, and who is to be told of it."""

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
    """Reads settings afresh and has a new zygote read the rest.

    :param load_settings: reads the options; raises ConfigurationError, and here
        already.
    :ivar settings: those in force.
    """

    def __init__(self, load_settings: Callable[[], Settings]):
        self.settings = load_settings()
        self._load_settings = load_settings
        self._asked: list[Reply] = []
        self._again: list[Reply] = []

    def ask(self, zygotes: Zygotes, *replies: Reply) -> None:
        """Begin a reload; *replies* are answered when it has ended."""
        if zygotes.successor is not None:
            # It may have read what changed since; so once more after it.
            self._again.extend(replies)
            return
        try:
            self.settings = self._load_settings()
        except Exception as error:
            log.error("cannot reload: %s", error)
            _answer(replies, encode_error(FAILED, str(error)))
            return
        log.info("reloading")
        self._asked.extend(replies)
        zygotes.replace()

    def stop(self) -> None:
        """The service stops: nobody is going to be told anything else."""
        answer = encode_error(STOPPING, "the service is stopping")
        _answer([*self._asked, *self._again], answer)
        self._asked, self._again = [], []

    def end(self, zygotes: Zygotes, answer: bytes) -> None:
        """A zygote has got ready, or failed: that is the *answer*."""
        _answer(self._asked, answer)
        self._asked, again, self._again = [], self._again, []
        if again:
            self.ask(zygotes, *again)


def _answer(replies: list[Reply] | tuple[Reply, ...], answer: bytes) -> None:
    for reply in replies:
        reply.send(answer)
        reply.close()
