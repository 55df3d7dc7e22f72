# SPDX-License-Identifier: GPL-2.0-or-later

"""Parses the options that limit clients before they log in to the SSH server.

They are those of sshd_config(5): MaxStartups, PerSourceMaxStartups,
PerSourceNetBlockSize, PerSourcePenalties and PerSourcePenaltyExemptList.

A source is a block of addresses whose clients are counted together. It is represented
by the bytes of its first address: the common first bits, then zeros.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass, replace
from typing import NamedTuple

#: The reasons for a penalty, by the word that sets its length; texts for the log.
REASONS = {
    "authfail": "failed authentication",
    "invaliduser": "attempted authentication by invalid user",
    "grace_exceeded": "exceeded login_grace_time",
    "noauth": "connections without attempting authentication",
}
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_MAPPED = b"\0" * 10 + b"\xff\xff"


class Startups(NamedTuple):
    """``start:rate:full`` of max_startups.

    When *start* clients have not logged in yet, *rate* percent of new ones are
    dropped. The rate rises linearly to 100 percent at *full* of them.
    """

    start: int
    rate: int
    full: int

    def drops(self, count: int, chance: int) -> bool:
        """Whether to drop a new client while *count* others have not logged in.

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

    Penalties of one source add up, to *most* seconds at most. A total of *least*
    or less has no effect yet.

    :ivar max_sources4, max_sources6: how many sources of IPv4 and IPv6 are kept.
    :ivar deny_all: whether all clients are refused when that many are kept; if
        not, the sources whose penalties end first are dropped.
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
    """All limits on clients that have not logged in.

    :ivar per_source: how many clients of one source may be logging in at once. 0
        means no limit. None means one fewer than `Startups.start`, so that one
        source alone never causes clients of others to be dropped.
    """

    startups: Startups
    per_source: int | None = None
    netblock_size: NetBlockSize = EACH_ADDRESS
    penalties: Penalties = Penalties()
    exempt: tuple[Network, ...] = ()

    @property
    def most_of_a_source(self) -> int:
        """`per_source` as a number; 0 means no limit."""
        if self.per_source is None:
            return max(1, self.startups.start - 1)
        return self.per_source


# -- parsers of the options; each raises ValueError for an invalid text --------


def parse_max_startups(text: str) -> Startups:
    """Parse ``10:30:100``, or one number: clients beyond it are always dropped."""
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
    """Parse a number, or ``none``, which is 0."""
    if text.strip().lower() == "none":
        return 0
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def parse_netblock_size(text: str) -> NetBlockSize:
    """Parse ``32:128``, or only the number of bits of IPv4."""
    ipv4, _, ipv6 = text.strip().partition(":")
    found = NetBlockSize(int(ipv4), int(ipv6 or 128))
    if not (0 <= found.ipv4 <= 32 and 0 <= found.ipv6 <= 128):
        raise ValueError(text)
    return found


def parse_seconds(text: str) -> float:
    """Parse a time as in sshd_config(5), ``90``, ``1m30s`` or ``0.5s``, in seconds."""
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)([smhdw]?)", text.lower())
    if not parts or "".join(a + b for a, b in parts) != text.lower():
        raise ValueError(text)
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def parse_penalties(text: str) -> Penalties:
    """Parse ``no``, ``yes``, or words such as ``authfail:5s``, which keep the
    defaults of the others."""
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
    """Parse addresses or networks such as ``10.0.0.0/8``, separated by commas."""
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
    """The 4 or 16 bytes of an address.

    An IPv4-mapped IPv6 address (:rfc:`4291`, section 2.5.5.2) gives 4 bytes.

    :raises ValueError: if *host* is not an address.
    """
    try:
        if ":" not in host:
            return socket.inet_pton(socket.AF_INET, host)
        packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except OSError:
        raise ValueError(host) from None
    return packed.removeprefix(_MAPPED)


def is_in(host: str, networks: tuple[Network, ...]) -> bool:
    """Whether the address *host* is in one of *networks*."""
    if not networks:
        return False
    packed = pack(host)
    return any(
        len(packed) == len(address) and mask(packed, bits) == address
        for address, bits in networks
    )


def mask(packed: bytes, bits: int) -> bytes:
    """The first *bits* bits of an address, and then zeros."""
    size = len(packed)
    if bits >= size * 8:
        return packed
    rest = size * 8 - bits
    return (int.from_bytes(packed, "big") >> rest << rest).to_bytes(size, "big")
