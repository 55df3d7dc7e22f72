# SPDX-License-Identifier: GPL-2.0-or-later

"""Waits for the first request of a connection that is refused, without blocking.

``client/refusal.py`` has the reason, and does the same in the client.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..client.refusal import LONGEST, SECONDS, error_response, is_request


class Refusal:
    """Decides how a client is told that it is refused.

    :param text: one line for the user.
    :param tell: called once, with the answer to the client's request; with None if
        there is no request that can be answered, so that standard error has to tell.
    """

    def __init__(self, reactor: Any, text: str, tell: Callable[[bytes | None], None]):
        self._reactor = reactor
        self._text = text
        self._tell = tell
        self._data = b""
        self._decided = False
        self._timer = reactor.callLater(SECONDS, self.end)

    def listen(self, stdin: Any) -> None:
        """Take what the client writes to *stdin*, a `fifos.Writer`; None if closed."""
        if stdin is None:
            self.end()
        else:
            stdin.divert(self.receive, self.end)

    def receive(self, data: bytes) -> None:
        """The client has sent *data*."""
        self._data += data[:LONGEST]
        found = is_request(self._data)
        if found is not None:
            self._decide(error_response(self._text) if found else None)

    def end(self) -> None:
        """The client sends no more."""
        self._decide(None)

    def _decide(self, response: bytes | None) -> None:
        if self._decided:
            return
        self._decided = True
        if self._timer.active():
            self._timer.cancel()
        # Later: the caller may be about to receive something else.
        self._reactor.callLater(0, self._tell, response)
