# SPDX-License-Identifier: GPL-2.0-or-later

"""Carries out reloads one at a time; answers them when the new zygote is ready."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..wire import FAILED, STOPPING, encode_answer, encode_error
from .doors import Reply
from .zygotes import Zygotes

if TYPE_CHECKING:
    from ..settings import Settings
    from .loop import Callback

log = logging.getLogger("lpserve")


class Reloads:
    """Reads the settings afresh, and starts a new zygote to read everything else.

    :param load_settings: reads the options; raises ConfigurationError, also when
        `Reloads` is created.
    :param begun: called when a reload is requested.
    :param ended: called when the last requested reload has ended.
    :ivar settings: the current settings.
    :ivar done, failed: how many reloads there were.
    :ivar fault: why the last reload failed, or "".
    """

    def __init__(
        self,
        load_settings: Callable[[], Settings],
        begun: Callback,
        ended: Callback,
    ):
        self.done = self.failed = 0
        self.settings = load_settings()
        self.fault = ""
        self._load_settings = load_settings
        self._begun, self._ended = begun, ended
        self._underway = False
        self._asked: list[Reply] = []
        self._again: list[Reply] = []

    def ask(self, zygotes: Zygotes, *replies: Reply) -> None:
        """Begin a reload; *replies* get the answer when it has ended."""
        self._underway = True
        self._begun()
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
            self._end(str(error))
            return
        log.info("reloading")
        self._asked.extend(replies)
        zygotes.replace()

    def stop(self) -> None:
        """Answer all pending reloads, because the service stops."""
        answer = encode_error(STOPPING, "the service is stopping")
        _answer([*self._asked, *self._again], answer)
        self._asked, self._again = [], []
        self._underway = False

    def end(self, zygotes: Zygotes, why: str = "") -> None:
        """End the current reload, which failed if there is a *why*; begin the next."""
        if self._asked and why:
            self.failed += 1
        elif self._asked:
            self.done += 1
        _answer(self._asked, encode_error(FAILED, why) if why else encode_answer("ok"))
        self._asked, again, self._again = [], self._again, []
        if again:
            self.ask(zygotes, *again)
        elif self._underway:
            self._end(why)

    def end_upgrade(self, why: str) -> None:
        """A reload that was an upgrade has failed."""
        self.failed += 1
        self._end(why)

    def _end(self, why: str) -> None:
        self._underway = False
        self.fault = why
        self._ended()


def _answer(replies: list[Reply] | tuple[Reply, ...], answer: bytes) -> None:
    for reply in replies:
        reply.send(answer)
        reply.close()
