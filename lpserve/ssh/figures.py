# SPDX-License-Identifier: GPL-2.0-or-later

"""Counts what happens before connections are served, and tells it in a file."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from ..errors import text_of
from ..location import directory_fault
from ..sshstate import ACCEPTED, DROPS, INTERVAL, SshState, remove_state, write_state

log = logging.getLogger("lpserve")


class Figures:
    """Counts since the start, upgrades included; `sshstate.SshState` says by what."""

    def __init__(self) -> None:
        self.started = time.time()
        self.logins: Counter[str] = Counter()
        self.drops: Counter[str] = Counter()
        self.penalties: Counter[str] = Counter()

    def logged_in(self) -> None:
        """A client has logged in."""
        self.logins[ACCEPTED] += 1

    def not_logged_in(self, reason: str) -> None:
        """A client has left or was disconnected before it had logged in.

        :param reason: one of `loginrules.REASONS`.
        """
        self.logins[reason] += 1

    def dropped(self, reason: str) -> None:
        """A connection was not accepted.

        :param reason: what `limits.Limits.refusal` returned.
        """
        self.drops[_drop(reason)] += 1

    def penalised(self, reason: str) -> None:
        """A source is refused from now on; *reason* as of `not_logged_in`."""
        self.penalties[reason] += 1

    def pack(self) -> dict[str, Any]:
        """The same for JSON; see `take`."""
        return {
            "started": self.started,
            "logins": self.logins,
            "drops": self.drops,
            "penalties": self.penalties,
        }

    def take(self, packed: dict[str, Any]) -> None:
        """Go on with what `pack` has returned."""
        self.started = float(packed["started"])
        self.logins = Counter(packed["logins"])
        self.drops = Counter(packed["drops"])
        self.penalties = Counter(packed["penalties"])


def _drop(reason: str) -> str:
    """Which of `sshstate.DROPS` *reason* is."""
    if reason.startswith("penalty"):
        return DROPS[0]
    word = reason.rpartition(" ")[2]
    return word if word in DROPS else DROPS[1]


class StateFile:
    """Renews the file that tells the state of this process, until `close`.

    :param reactor: calls later.
    :param directory: the runtime directory. It may come and go, with the service.
    :param state: returns what is told.
    """

    def __init__(self, reactor: Any, directory: str, state: Callable[[], SshState]):
        self._reactor = reactor
        self._directory = directory
        self._state = state
        self._timer: Any = None
        self._fault = ""

    def open(self) -> None:
        """Begin, and remove what processes have left that were killed."""
        if self._is_ours():
            remove_state(self._directory)
        self._renew()

    def _renew(self) -> None:
        self._timer = self._reactor.callLater(INTERVAL, self._renew)
        self.write()

    def write(self) -> None:
        """Write the file now; what prevents that is logged once."""
        fault = ""
        try:
            if self._is_ours():
                write_state(self._directory, self._state())
        except FileNotFoundError:
            pass  # the service has removed its directory this moment
        except OSError as error:
            fault = text_of(error)
        if fault and fault != self._fault:
            log.warning("no metrics of this process can be had: %s", fault)
        self._fault = fault

    def _is_ours(self) -> bool:
        try:
            return directory_fault(self._directory) is None
        except OSError:
            return False

    def close(self) -> None:
        """Remove the file."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        with contextlib.suppress(OSError):
            if self._is_ours():
                remove_state(self._directory)
