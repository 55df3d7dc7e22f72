# SPDX-License-Identifier: GPL-2.0-or-later

"""What the options say of clients that have not logged in to the SSH server: what
sshd_config(5) calls MaxStartups, PerSourceMaxStartups, PerSourceNetBlockSize and
PerSourcePenalties.

A source is what a client's address has in common with those that are counted together
with it: its first bits, as the bytes of an address whose other bits are 0.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass, replace
from typing import NamedTuple

#: What a connection may have done wrong, by the word that sets its penalty.
REASONS = {
    "authfail": "failed authentication",
    "invaliduser": "attempted authentication by invalid user",
    "grace_exceeded": "exceeded login_grace_time",
    "noauth": "connections without attempting authentication",
}
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_MAPPED = b"\0" * 10 + b"\xff\xff"


class Startups(NamedTuple):
    """``start:rate:full``: from *start* on clients are dropped, *rate* in a hundred
    at first, all of them when there are *full* that have not logged in."""

    start: int
    rate: int
    full: int

    def drops(self, count: int, chance: int) -> bool:
        """Whether one more is dropped when *count* have not logged in.

        :param chance: a random number from 0 to 99.
        """
        if count < self.start:
            return False
        if count >= self.full:
            return True
        slope = (100 - self.rate) * (count - self.start) // (self.full - self.start)
        return chance < self.rate + slope


class NetBlockSize(NamedTuple):
    """How many bits of an address make a source."""

    ipv4: int = 32
    ipv6: int = 128


EACH_ADDRESS = NetBlockSize()


class Network(NamedTuple):
    """The addresses whose first *bits* bits are those of *address*."""

    address: bytes
    bits: int


@dataclass(frozen=True)
class Penalties:
    """Seconds for which a source is refused after each of `REASONS`.

    They add up, to *most*; what is not more than *least* has no effect yet.

    :ivar max_sources4, max_sources6: how many sources are remembered.
    :ivar deny_all: whether everybody is refused when there are more than these;
        else those are forgotten whose penalties end first.
    """

    enabled: bool = True
    authfail: float = 5.0
    invaliduser: float = 5.0
    grace_exceeded: float = 10.0
    noauth: float = 1.0
    least: float = 15.0
    most: float = 600.0
    max_sources4: int = 65536
    max_sources6: int = 65536
    deny_all: bool = False


@dataclass(frozen=True)
class Rules:
    """All that limits clients before they have logged in.

    :ivar per_source: how many of one source may be about to log in; 0 is no limit,
        and None one fewer than are dropped at random, so that whatever one source
        does nobody else is.
    """

    startups: Startups
    per_source: int | None = None
    netblock_size: NetBlockSize = EACH_ADDRESS
    penalties: Penalties = Penalties()
    exempt: tuple[Network, ...] = ()

    @property
    def most_of_a_source(self) -> int:
        """`per_source` as a number; 0 is no limit."""
        if self.per_source is None:
            return max(1, self.startups.start - 1)
        return self.per_source


# -- what the options say; each function raises ValueError for what is wrong ---


def parse_max_startups(text: str) -> Startups:
    """``10:30:100``, or one number, which is where there is no room any more."""
    match = re.fullmatch(r"(\d{1,7})(?::(\d{1,3}):(\d{1,7}))?", text.strip(), re.ASCII)
    if match is None:
        raise ValueError(text)
    start, rate, full = (int(part or 0) for part in match.groups())
    if match[2] is None:
        rate, full = 100, start
    if not (1 <= start <= full and 1 <= rate <= 100):
        raise ValueError(text)
    return Startups(start, rate, full)


def parse_per_source(text: str) -> int:
    """A number, or ``none``, which is 0."""
    if text.strip().lower() == "none":
        return 0
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def parse_netblock_size(text: str) -> NetBlockSize:
    """``32:128``, or only the bits of IPv4."""
    ipv4, _, ipv6 = text.strip().partition(":")
    found = NetBlockSize(int(ipv4), int(ipv6 or 128))
    if not (0 <= found.ipv4 <= 32 and 0 <= found.ipv6 <= 128):
        raise ValueError(text)
    return found


def parse_seconds(text: str) -> float:
    """A time as sshd_config(5) has it, ``90``, ``1m30s`` or ``0.5s``."""
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)([smhdw]?)", text.lower())
    if not parts or "".join(a + b for a, b in parts) != text.lower():
        raise ValueError(text)
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def parse_penalties(text: str) -> Penalties:
    """``no``, ``yes``, or words such as ``authfail:5s``; those not named stay."""
    found = Penalties()
    words = text.lower().split()
    if words in (["no"], ["yes"]):
        return replace(found, enabled=words == ["yes"])
    for word in words:
        name, _, value = word.partition(":")
        name = {"min": "least", "max": "most"}.get(name, name).replace("-", "_")
        if name == "overflow" and value in ("permissive", "deny-all"):
            found = replace(found, deny_all=value == "deny-all")
        elif name in ("max_sources4", "max_sources6") and int(value) >= 1:
            found = replace(found, **{name: int(value)})  # type: ignore[arg-type]
        elif name in (*REASONS, "least", "most"):
            seconds = parse_seconds(value)
            found = replace(found, **{name: seconds})  # type: ignore[arg-type]
        else:
            raise ValueError(word)
    return found


def parse_networks(text: str) -> tuple[Network, ...]:
    """Addresses, or networks such as ``10.0.0.0/8``, with commas between them."""
    found = []
    for word in text.replace(",", " ").split():
        host, slash, length = word.partition("/")
        packed = pack(host)
        bits = int(length) if slash else len(packed) * 8
        if not 0 <= bits <= len(packed) * 8 or mask(packed, bits) != packed:
            raise ValueError(word)
        found.append(Network(packed, bits))
    return tuple(found)


def pack(host: str) -> bytes:
    """The 4 or 16 bytes of an address; ValueError if it is none.

    An IPv4 address that is written as one of IPv6 (:rfc:`4291`, section 2.5.5.2) is
    one of IPv4.
    """
    try:
        if ":" not in host:
            return socket.inet_pton(socket.AF_INET, host)
        packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except OSError:
        raise ValueError(host) from None
    return packed.removeprefix(_MAPPED)


def mask(packed: bytes, bits: int) -> bytes:
    """The first *bits* bits of an address, and then zeros."""
    size = len(packed)
    if bits >= size * 8:
        return packed
    rest = size * 8 - bits
    return (int.from_bytes(packed, "big") >> rest << rest).to_bytes(size, "big")
