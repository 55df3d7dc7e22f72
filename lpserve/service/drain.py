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

log = logging.getLogger("lpserve")


class Drain:
    """The state, which the file RUNTIME_DIR/drained keeps.

    Clients look at the file where no service answers, and it is there for the next
    service.

    :param directory: the runtime directory.
    :param begun: called with the message whenever there is one or another one.
    :ivar message: for users, while connections are refused; else None.
    """

    def __init__(self, directory: str, begun: Callable[[str], object]):
        self.message: str | None = None
        self._begun = begun
        self._directory = directory

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
        else:
            log.warning("out of service, connections are refused: %s", self.message)
            self._begun(self.message)

    def check(self) -> None:
        """Let a connection pass.

        :raises RequestError: with code ``draining`` if it is to be refused.
        """
        if self.message is not None:
            raise RequestError(DRAINING, self.message)

    def begin(self, message: str) -> None:
        """Refuse connections from now on with *message*; "" for the usual one.

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
