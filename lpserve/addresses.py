# SPDX-License-Identifier: GPL-2.0-or-later

"""Parses HOST:PORT, where a server listens."""

from __future__ import annotations

import ipaddress
import socket

from .errors import ConfigurationError


def parse_address(text: str, name: str = "listen", port: int = 5022) -> tuple[str, int]:
    """Parse ``HOST:PORT`` and resolve HOST; the address and the port.

    :param name: of the option, for the error.
    :param port: an example, for the error.
    :raises ConfigurationError: if *text* is invalid, or there is no such host.
    """
    host, separator, number = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not _is_port(number):
        raise ConfigurationError(
            f"{name} must be HOST:PORT, as in 127.0.0.1:{port}, not {text!r}"
        )
    try:
        found = socket.getaddrinfo(
            host or "0.0.0.0", int(number), type=socket.SOCK_STREAM
        )
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {text}: {error.strerror}") from None
    except UnicodeError:
        raise ConfigurationError(f"cannot listen on {text}: no such name") from None
    return str(found[0][4][0]), int(number)


def parse_ip_address(text: str | None, name: str, port: int) -> tuple[str, int] | None:
    """Parse ``ADDRESS:PORT``, where ADDRESS is no name: to look one up takes time.

    :param name, port: as of `parse_address`.
    :returns: None for an empty *text*.
    :raises ConfigurationError: if *text* is invalid.
    """
    if not text:
        return None
    host, _, number = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        if not _is_port(number):
            raise ValueError
        return str(ipaddress.ip_address(host)), int(number)
    except ValueError:
        raise ConfigurationError(
            f"{name} must be ADDRESS:PORT, as in 127.0.0.1:{port}, not {text!r}"
        ) from None


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535
