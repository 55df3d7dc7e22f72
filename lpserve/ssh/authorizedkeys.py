# SPDX-License-Identifier: GPL-2.0-or-later

"""A line of a file of public keys, as sshd(8) describes it under "AUTHORIZED_KEYS
FILE FORMAT".
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass

#: Bits of the flags in a signature of a FIDO key (OpenSSH's PROTOCOL.u2f).
USER_PRESENT, USER_VERIFIED = 0x01, 0x04
#: Options that forbid or allow what nobody gets here anyway.
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
#: A name, and a value in quotes, in which \" is a quote.
_OPTION = re.compile(r'([A-Za-z0-9-]+)(?:="((?:[^"\\]|\\.)*)")?')


class KeyLineError(ValueError):
    """A line of a file that lets nobody in; ``str()`` says why."""


@dataclass(frozen=True)
class AuthorizedKey:
    """A key that may log in.

    :ivar blob: the key as it is sent (:rfc:`4253`, section 6.6).
    :ivar environment: what its ``environment="NAME=value"`` options say.
    :ivar flags: which have to be set in a signature if it is a FIDO key.
    """

    user: str
    blob: bytes
    environment: dict[str, str]
    flags: int = USER_PRESENT


def parse_line(line: str, user: str) -> AuthorizedKey | None:
    """The key of a line, or None where it is empty or a comment.

    :raises KeyLineError: for a line that cannot be honoured as it stands.
    """
    line = line.strip()
    if not line or line.startswith("#"):
        return None
    environment: dict[str, str] = {}
    flags = USER_PRESENT
    if not _KEY_TYPE.match(line):
        for name, value in _split_options(line):
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
                # It may well restrict the key: without it, it would open more.
                raise KeyLineError(f"the option {name} is not supported here")
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
    return AuthorizedKey(user, blob, environment, flags)


def _strings(blob: bytes) -> list[bytes]:
    """What a key consists of (:rfc:`4251`, section 5); nothing if it ends early."""
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
    """Where the options end: at the first space that is not in quotes."""
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
