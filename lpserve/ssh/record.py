# SPDX-License-Identifier: GPL-2.0-or-later

"""What is logged of a connection to the SSH server: one line, when it is over."""

from __future__ import annotations

import shlex
from dataclasses import dataclass


@dataclass
class Record:
    """A connection; times are in seconds since the epoch, None if not reached.

    :ivar user: USER, or the account that was asked for where nobody logged in.
    :ivar peer: address and port of the client.
    :ivar key: the fingerprint of the key that logged in.
    :ivar command: what the client wanted to have run.
    :ivar served: by what: ``worker`` or ``process``, and its pid.
    :ivar received, sent: bytes of the Bazaar protocol, each way.
    :ivar exit: how it ended: an exit status, or ``signal N``, or what was wrong.
    """

    peer: str
    accepted: float
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
        """The line: ``name=value`` words, times after `accepted` in seconds."""
        words = {
            "user": self.user or "-",
            "peer": self.peer,
            "key": self.key or "-",
            "command": self.command or "-",
            "served": self.served or "-",
            "accepted": f"{self.accepted:.3f}",
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
        return "-" if time is None else f"+{time - self.accepted:.3f}"


def _quoted(text: str) -> str:
    """One word, whatever a client made up: `shlex.split` gives it back."""
    return shlex.quote("".join(c if c.isprintable() else "?" for c in text[:300]))
