# SPDX-License-Identifier: GPL-2.0-or-later

"""Parses headers of the PROXY protocol, versions 1 and 2; does no I/O.

HAProxy's doc/proxy-protocol.txt describes them.
"""

from __future__ import annotations

import socket
import struct
from typing import Any, NamedTuple

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.protocols.haproxy._v1parser import V1Parser
from twisted.protocols.haproxy._v2parser import V2Parser

from .arrivals import Address

#: The most bytes of a header. Version 1 has a limit of its own, with the line end.
#: Version 2 has 52 bytes for addresses of IPv6, and then what proxies like to add.
LONGEST = 4096
_LONGEST_1 = 107
#: What a header of version 1 begins with, and one without addresses.
_FIRST_1 = b"PROXY "
_UNKNOWN_1 = b"PROXY UNKNOWN"
#: The bytes of a header of version 2 up to its addresses.
_HEAD_2 = 16


class HeaderError(ValueError):
    """There is no valid header; ``str()`` says why."""


class Header(NamedTuple):
    """A header.

    :ivar length: its bytes.
    :ivar source: the client; None if the proxy speaks for itself or does not know.
    :ivar destination: where the client has connected to; None if *source* is.
    """

    length: int
    source: Address | None = None
    destination: Address | None = None


def parse_header(data: bytes) -> Header | int:
    """Parse the header at the beginning of *data*.

    :returns: the header; or how many bytes of *data* are needed to go on, if it has
        only a part of the header.
    :raises HeaderError: if there is none, or none that is valid.
    """
    if not data:
        return 1
    if _begins(data, V2Parser.PREFIX):
        return _parse_2(data)
    if _begins(data, _FIRST_1):
        return _parse_1(data)
    raise HeaderError("no PROXY header")


def _begins(data: bytes, first: bytes) -> bool:
    """Whether *data* may begin with *first*, as far as it goes."""
    return data[: len(first)] == first[: len(data)]


def _parse_1(data: bytes) -> Header | int:
    line, end, _ = data[:_LONGEST_1].partition(b"\r\n")
    if not end and len(data) >= _LONGEST_1:
        raise HeaderError("a PROXY header without end")
    if not end:
        return len(data) + 1
    length = len(line) + len(end)
    # What comes after the word is to be ignored. Twisted wants a blank there.
    if line == _UNKNOWN_1 or line.startswith(_UNKNOWN_1 + b" "):
        return Header(length)
    return _header(length, V1Parser, line)


def _parse_2(data: bytes) -> Header | int:
    if len(data) < _HEAD_2:
        return _HEAD_2
    length = _HEAD_2 + int(struct.unpack_from("!H", data, 14)[0])
    if length > LONGEST:
        raise HeaderError(f"a PROXY header of {length} bytes")
    if len(data) < length:
        return length
    return _header(length, V2Parser, data[:length])


def _header(length: int, parser: Any, data: bytes) -> Header:
    try:
        info = parser.parse(data)
        if not isinstance(info.source, (IPv4Address, IPv6Address)):
            return Header(length)  # a health check, or a client without an address
        return Header(length, _address(info.source), _address(info.destination))
    except Exception:
        # Twisted's parsers raise various exceptions.
        raise HeaderError("a PROXY header that is not valid") from None


def _address(found: IPv4Address | IPv6Address) -> Address:
    """*found* as the kernel writes addresses.

    :raises ValueError, OSError: if it is none of a TCP connection.
    """
    if found.type != "TCP" or not 0 <= found.port <= 65535:
        raise ValueError(found)
    of = socket.AF_INET6 if isinstance(found, IPv6Address) else socket.AF_INET
    return Address(socket.inet_ntop(of, socket.inet_pton(of, found.host)), found.port)
