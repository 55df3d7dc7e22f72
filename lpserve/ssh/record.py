# SPDX-License-Identifier: GPL-2.0-or-later

"""The log line of a connection to the SSH server, written at its end."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from .arrivals import Arrival


@dataclass
class Record:
    """The data of a log line; times are seconds since the epoch, or None.

    :ivar user: USER; without a login, the account that the client asked for.
    :ivar arrival: who the client is, and when it came.
    :ivar key: the fingerprint of the key that logged in.
    :ivar command: the command that the client sent.
    :ivar served: ``worker`` or ``process``, and its pid.
    :ivar received, sent: bytes of the Bazaar protocol, from and to the client.
    :ivar exit: an exit status, ``signal N``, or a reason.
    """

    arrival: Arrival
    user: str = ""
    key: str = ""
    command: str = ""
    authenticated: float | None = None
    ready: float | None = None
    first_byte: float | None = None
    end: float | None = None
    served: str = ""
    received: int = 0
    sent: int = 0
    exit: str = ""

    def line(self) -> str:
        """The line: ``name=value`` words, times after ``accepted`` in seconds.

        ``proxy`` is there only if the connection came through one.
        """
        proxy = self.arrival.proxy
        words = {
            "user": self.user or "-",
            "peer": str(self.arrival.peer),
            **({} if proxy is None else {"proxy": str(proxy)}),
            "key": self.key or "-",
            "command": self.command or "-",
            "served": self.served or "-",
            "accepted": f"{self.arrival.accepted:.3f}",
            "authenticated": self._after(self.authenticated),
            "ready": self._after(self.ready),
            "first_byte": self._after(self.first_byte),
            "end": self._after(self.end),
            "received": str(self.received),
            "sent": str(self.sent),
            "exit": self.exit or "-",
        }
        return " ".join(f"{name}={_quoted(value)}" for name, value in words.items())

    def _after(self, time: float | None) -> str:
        return "-" if time is None else f"+{time - self.arrival.accepted:.3f}"


def _quoted(text: str) -> str:
    """*text* as one printable word for `shlex.split`."""
    return shlex.quote("".join(c if c.isprintable() else "?" for c in text[:300]))
