# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""Who may log in with which key: a directory of ``authorized_keys`` files.

One file for each USER, whose name is the file's, as sshd(8) describes it under
"AUTHORIZED_KEYS FILE FORMAT". The files are read at every login.
"""

from __future__ import annotations

import base64
import logging
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from .errors import ConfigurationError
from .wire import is_user

log = logging.getLogger("lpserve")

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
_MAX_FILE = 1 << 20


class KeyLineError(ValueError):
    """A line of a file that lets nobody in; ``str()`` says why."""


@dataclass(frozen=True)
class AuthorizedKey:
    """A key that may log in.

    :ivar blob: the key as it is sent (:rfc:`4253`, section 6.6).
    :ivar environment: what its ``environment="NAME=value"`` options say.
    """

    user: str
    blob: bytes
    environment: dict[str, str]


def parse_line(line: str, user: str) -> AuthorizedKey | None:
    """The key of a line, or None where it is empty or a comment.

    :raises KeyLineError: for a line that cannot be honoured as it stands.
    """
    line = line.strip()
    if not line or line.startswith("#"):
        return None
    environment: dict[str, str] = {}
    if not _KEY_TYPE.match(line):
        for name, value in _split_options(line):
            if name == "environment":
                key, separator, text = value.partition("=")
                if not separator:
                    raise KeyLineError('environment must be "NAME=value"')
                environment[key] = text
            elif name not in _WITHOUT_EFFECT:
                # It may well restrict the key: without it, it would open more.
                raise KeyLineError(f"the option {name} is not supported here")
        line = line[_end_of_options(line) :].lstrip()
    words = line.split(None, 2)
    if len(words) < 2 or not _KEY_TYPE.match(words[0]):
        raise KeyLineError("this is no public key")
    try:
        blob = base64.b64decode(words[1], validate=True)
    except ValueError:
        blob = b""
    strings = _strings(blob)
    if len(strings) < 2:
        raise KeyLineError("the key is not whole")
    if strings[0] != words[0].encode("utf-8", "replace"):
        raise KeyLineError(f"the key is not of the type {words[0][:40]}")
    return AuthorizedKey(user, blob, environment)


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


def _has_keys(name: str) -> bool:
    """Whether *name* is a USER, and not that of a copy that an editor has kept."""
    return is_user(name) and not name.endswith("~")


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


class KeyDirectory:
    """The directory.

    :param path: where it is.
    :param shared_account: the account in whose name every USER may log in, and
        is known by the key; "" where there is none.
    """

    def __init__(self, path: str, shared_account: str):
        self.path = path
        self.shared_account = shared_account
        #: What the log has been told, so that not every login tells it again.
        self._told: set[str] = set()

    def check(self) -> None:
        """Whether it can be used.

        :raises ConfigurationError: if not.
        """
        try:
            fault = self._distrust(self.path, stat.S_ISDIR, "directory")
        except OSError as error:
            fault = f"cannot read {self.path}: {error.strerror}"
        if fault is not None:
            raise ConfigurationError(
                f"{fault} (--authorized-keys is a directory with a file of "
                "public keys for each user)"
            )

    def find(self, account: str, blob: bytes) -> AuthorizedKey | None:
        """Who logs in as *account* with the key *blob*, or None: nobody does."""
        if account != self.shared_account or not account:
            users = [account] if _has_keys(account) else []
        else:
            try:
                users = sorted(filter(_has_keys, os.listdir(self.path)))
            except OSError as error:
                self._tell(f"cannot read {self.path}: {error.strerror}")
                return None
        found: AuthorizedKey | None = None
        for key in self._keys_of(users):
            if key.blob != blob:
                continue
            if found is not None and found.user != key.user:
                self._tell(
                    f"{found.user} and {key.user} have the same key: who logs in as "
                    f"{account} with it cannot be told"
                )
                return None
            found = found or key
        return found

    def _keys_of(self, users: list[str]) -> Iterator[AuthorizedKey]:
        for user in users:
            path = os.path.join(self.path, user)
            for number, line in enumerate(self._lines(path), 1):
                try:
                    key = parse_line(line, user)
                except KeyLineError as error:
                    self._tell(f"{path}:{number}: {error}; the line lets nobody in")
                    continue
                if key is not None:
                    yield key

    def _lines(self, path: str) -> list[str]:
        try:
            for each, is_kind, kind in (
                (self.path, stat.S_ISDIR, "directory"),
                (path, stat.S_ISREG, "file"),
            ):
                fault = self._distrust(each, is_kind, kind)
                if fault is not None:
                    self._tell(f"{fault}; it lets nobody in")
                    return []
            with open(path, encoding="utf-8", errors="replace") as file:
                text = file.read(_MAX_FILE + 1)
            lines = text.split("\n")
            if len(text) > _MAX_FILE:
                self._tell(f"{path} is longer than {_MAX_FILE}: its end lets nobody in")
                del lines[-1]
            return lines
        except FileNotFoundError:
            return []
        except OSError as error:
            self._tell(f"cannot read {path}: {error.strerror}")
            return []

    @staticmethod
    def _distrust(path: str, is_kind, kind: str) -> str | None:  # type: ignore[no-untyped-def]
        """Why others than the administrator may have written *path*, or None."""
        found = os.stat(path)
        if not is_kind(found.st_mode):
            return f"{path} is not a {kind}"
        if found.st_uid not in (0, os.geteuid()):
            return f"{path} is owned by uid {found.st_uid}, not by uid {os.geteuid()}"
        if found.st_mode & 0o022:
            mode = stat.S_IMODE(found.st_mode)
            return f"{path} is writable by others (mode {mode:04o})"
        return None

    def _tell(self, text: str) -> None:
        if len(self._told) > 1000:
            self._told.clear()
        if text not in self._told:
            self._told.add(text)
            log.warning("%s", text)
