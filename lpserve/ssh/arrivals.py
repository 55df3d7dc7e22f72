# SPDX-License-Identifier: GPL-2.0-or-later

"""A connection that has been accepted: who it is from, and through which proxy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class Address(NamedTuple):
    """An IP address and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True)
class Arrival:
    """A connection, before anything of SSH has been read from it.

    :ivar accepted: when, in seconds since the epoch.
    :ivar peer: the client.
    :ivar local: where the client has connected to.
    :ivar proxy: the proxy that has sent a PROXY header, or None.
    """

    accepted: float
    peer: Address
    local: Address
    proxy: Address | None = None

    @property
    def is_probe(self) -> bool:
        """Whether the proxy speaks for itself, as in a health check."""
        return self.proxy is not None and self.proxy == self.peer

    def encode(self) -> list[Any]:
        """The same for JSON; see `decode`."""
        return [self.accepted, self.peer, self.local, self.proxy]


def decode(fields: Sequence[Any]) -> Arrival:
    """The `Arrival` that was encoded as *fields*."""
    accepted, peer, local, proxy = fields
    through = Address(*proxy) if proxy else None
    return Arrival(accepted, Address(*peer), Address(*local), through)
