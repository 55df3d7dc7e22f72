# SPDX-License-Identifier: GPL-2.0-or-later

"""Parses a line of an authorized_keys file (sshd(8), "AUTHORIZED_KEYS FILE FORMAT")."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass

#: Bits of the flags in a signature of a FIDO key (OpenSSH's PROTOCOL.u2f).
USER_PRESENT, USER_VERIFIED = 0x01, 0x04
#: Options about features that this server does not have.
_WITHOUT_EFFECT = frozenset(
    (
        "agent-forwarding",
        "no-agent-forwarding",
        "no-port-forwarding",
        "no-pty",
        "no-user-rc",
        "no-x11-forwarding",
        "permitlisten",
        "permitopen",
        "port-forwarding",
        "pty",
        "restrict",
        "tunnel",
        "user-rc",
        "x11-forwarding",
    )
)
_KEY_TYPE = re.compile("(ssh|ecdsa|sk)-")
#: A name, perhaps with a quoted value, in which \" is a quote.
_OPTION = re.compile(r'([A-Za-z0-9-]+)(?:="((?:[^"\\]|\\.)*)")?')


class KeyLineError(ValueError):
    """A line cannot be used; ``str()`` tells why."""


@dataclass(frozen=True)
class AuthorizedKey:
    """A key that may log in.

    :ivar blob: the key as it is sent (:rfc:`4253`, section 6.6).
    :ivar environment: of its ``environment="NAME=value"`` options.
    :ivar flags: that have to be set in a signature of a FIDO key.
    """

    user: str
    blob: bytes
    environment: dict[str, str]
    flags: int = USER_PRESENT


@dataclass(frozen=True)
class KeyLine:
    """What one line consists of.

    :ivar options: pairs of a name, in lower case, and a value or "".
    :ivar kind: the type of the key.
    :ivar blob: the key as it is sent (:rfc:`4253`, section 6.6).
    :ivar comment: the rest of the line.
    """

    options: tuple[tuple[str, str], ...]
    kind: str
    blob: bytes
    comment: str


def parse_line(line: str, user: str) -> AuthorizedKey | None:
    """Parse one line; None if it is empty or a comment.

    :param user: to whom the key belongs.
    :raises KeyLineError: if it is invalid, or has an option that is not supported.
    """
    found = split_line(line)
    if found is None:
        return None
    environment: dict[str, str] = {}
    flags = USER_PRESENT
    for name, value in found.options:
        if name == "environment":
            key, separator, text = value.partition("=")
            if not separator:
                raise KeyLineError('environment must be "NAME=value"')
            environment[key] = text
        elif name == "no-touch-required":
            flags &= ~USER_PRESENT
        elif name == "verify-required":
            flags |= USER_VERIFIED
        elif name not in _WITHOUT_EFFECT:
            # To ignore an option could lift a restriction of the key.
            raise KeyLineError(f"the option {name} is not supported here")
    return AuthorizedKey(user, found.blob, environment, flags)


def split_line(line: str) -> KeyLine | None:
    """Split one line, whatever its options are; None if it is empty or a comment.

    :raises KeyLineError: if it is invalid.
    """
    line = line.strip()
    if not line or line.startswith("#"):
        return None
    options: tuple[tuple[str, str], ...] = ()
    if not _KEY_TYPE.match(line):
        options = tuple(_split_options(line))
        line = line[_end_of_options(line) :].lstrip()
    words = line.split(None, 2)
    if len(words) < 2 or not _KEY_TYPE.match(words[0]):
        raise KeyLineError("this is not a public key")
    try:
        blob = base64.b64decode(words[1], validate=True)
    except ValueError:
        blob = b""
    strings = _strings(blob)
    if len(strings) < 2:
        raise KeyLineError("the key is truncated")
    if strings[0] != words[0].encode("utf-8", "replace"):
        raise KeyLineError(f"the key is not of the type {words[0][:40]}")
    comment = words[2].strip() if len(words) > 2 else ""
    return KeyLine(options, words[0], blob, comment)


def _strings(blob: bytes) -> list[bytes]:
    """The strings in a key (:rfc:`4251`, section 5); [] if it is truncated."""
    found = []
    start = 0
    while start < len(blob):
        end = start + 4 + int.from_bytes(blob[start : start + 4], "big")
        if end > len(blob):
            return []
        found.append(blob[start + 4 : end])
        start = end
    return found


def _end_of_options(line: str) -> int:
    """The end of the options: the first space that is not quoted."""
    match = re.match(r'(?:[^\s"\\]|"(?:[^"\\]|\\.)*"|\\.)*', line)
    assert match is not None
    return match.end()


def _split_options(line: str) -> Iterator[tuple[str, str]]:
    text = line[: _end_of_options(line)]
    start = 0
    while True:
        match = _OPTION.match(text, start)
        if match is None or text[match.end() : match.end() + 1] not in ("", ","):
            raise KeyLineError("its options cannot be understood")
        yield match[1].lower(), (match[2] or "").replace('\\"', '"')
        if match.end() >= len(text):
            return
        start = match.end() + 1
