# SPDX-License-Identifier: GPL-2.0-or-later

"""Whether the service takes new connections: ``drain`` and ``resume``."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from ..drained import (
    drained_path,
    message_fault,
    read_drained,
    remove_drained,
    write_drained,
)
from ..errors import os_fault
from ..wire import BAD_REQUEST, DRAINING, FAILED, RequestError
from .loop import Loop, Timer

log = logging.getLogger("lpserve")

#: Seconds until connections are refused where a load balancer asks how the host is. It
#: sends some here until it has asked again, and these then log in.
NOTICE = 3.0


class Drain:
    """The state, which the file RUNTIME_DIR/drained keeps.

    Clients look at the file where no service answers, and it is there for the next
    service.

    :param directory: the runtime directory.
    :param begun: called with the message whenever connections are to be refused with
        it, or with another one.
    :ivar message: for users, while the host is out of service; else None.
    :ivar notice: seconds from then on in which connections are still served.
    """

    def __init__(self, loop: Loop, directory: str, begun: Callable[[str], object]):
        self.message: str | None = None
        self.notice = 0.0
        self._loop = loop
        self._begun = begun
        self._directory = directory
        # Whether connections are refused, and when they will be.
        self._refusing = False
        self._timer: Timer | None = None

    def read(self) -> None:
        """Read the file: an administrator may have written or removed it."""
        before, found = self.message, read_drained(self._directory)
        if found is None and os.path.lexists(drained_path(self._directory)):
            return  # it cannot be read now: there may be no descriptor
        self.message = found
        if self.message == before:
            return
        if self.message is None:
            log.warning("in service again: new connections are served")
            self._stop_refusing()
            return
        log.warning("out of service, connections are refused: %s", self.message)
        if self._refusing or not self.notice:
            self._refuse()
        elif self._timer is None:
            self._timer = self._loop.call_later(self.notice, self._refuse)

    def _refuse(self) -> None:
        self._timer, self._refusing = None, True
        assert self.message is not None
        self._begun(self.message)

    def _stop_refusing(self) -> None:
        self._refusing = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def check(self) -> None:
        """Let a connection pass.

        :raises RequestError: with code ``draining`` if it is to be refused.
        """
        if self._refusing and self.message is not None:
            raise RequestError(DRAINING, self.message)

    def begin(self, message: str) -> None:
        """Go out of service with *message*; "" for the usual one.

        :raises RequestError: if that cannot be kept.
        """
        fault = message_fault(message)
        if fault is not None:
            raise RequestError(BAD_REQUEST, fault)
        try:
            write_drained(self._directory, message)
        except OSError as error:
            raise RequestError(FAILED, os_fault(error)) from None
        self.read()

    def end(self) -> None:
        """Take connections again.

        :raises RequestError: if the file cannot be removed.
        """
        try:
            remove_drained(self._directory)
        except OSError as error:
            raise RequestError(FAILED, os_fault(error)) from None
        self.read()
