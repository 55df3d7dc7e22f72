# SPDX-License-Identifier: GPL-2.0-or-later

"""Indexes a directory of ``authorized_keys`` files by key.

There is one file for each USER, named like the user. Their contents are cached, by file
and by key. Before a key is accepted, its file is checked for changes, so that a removed
key is refused at once. Before a key is refused, all files are checked, so that an added
key is accepted at once. Checking all files may take long, so `KeyDirectory.renew` does
it in steps, between which other connections are served.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ..errors import ConfigurationError
from ..wire import is_user
from .authorizedkeys import AuthorizedKey, KeyLineError, parse_line

log = logging.getLogger("lpserve")

_MAX_FILE = 1 << 20
#: Seconds after a change in which a file is read at every login: its time stamps may be
#: too coarse to show another change.
_SETTLED = 2.0
#: The limit of one step of `KeyDirectory.renew`, and the cost of reading a file; the
#: unit is the check of a file, some five microseconds.
_STEP = 25
_READING = 10


class _File(NamedTuple):
    """A cached file.

    :ivar state: the result of `_state`; None if it has to be read again.
    :ivar keys: the first line for each key, by the key's blob.
    """

    state: tuple[int, ...] | None
    keys: dict[bytes, AuthorizedKey]


_NOTHING = _File(None, {})


class KeyDirectory:
    """The directory of public keys.

    :param path: of the directory.
    :param shared_account: the account as which every USER may log in, and is
        identified by the key; "" if there is none.
    """

    def __init__(self, path: str, shared_account: str):
        self.path = path
        self.shared_account = shared_account
        self._files: dict[str, _File] = {}
        #: The users of each key, by its blob.
        self._users: dict[bytes, set[str]] = {}
        #: The warnings that were logged, so that each is logged once.
        self._warned: set[str] = set()

    def check(self) -> None:
        """Check that the directory exists and can be trusted.

        :raises ConfigurationError: if not.
        """
        try:
            fault = _distrust(self.path, os.stat(self.path), stat.S_ISDIR, "directory")
        except OSError as error:
            fault = f"cannot read {self.path}: {error.strerror}"
        if fault is not None:
            raise ConfigurationError(
                f"{fault} (--authorized-keys is a directory with a file of "
                "public keys for each user)"
            )

    def has_account(self, account: str) -> bool:
        """Whether *account* is the shared account, or has a file."""
        if account == self.shared_account or not _has_keys(account):
            return account == self.shared_account != ""
        return os.path.exists(os.path.join(self.path, account))

    def find(self, account: str, blob: bytes) -> AuthorizedKey | None:
        """The entry for a login as *account* with the key *blob*; None: refuse it."""
        found = self.known(account, blob)
        if found is None and self.is_shared(account):
            for _ in self.renew():
                pass
            found = self.known(account, blob)
        return found

    def is_shared(self, account: str) -> bool:
        """Whether *account* is the shared account, whose keys are in all files."""
        return account == self.shared_account != ""

    def known(self, account: str, blob: bytes) -> AuthorizedKey | None:
        """Like `find`, without checking all files for changes."""
        if self.is_shared(account):
            users = sorted(self._users.get(blob, ()))
        else:
            users = [account] if _has_keys(account) else []
        if not users or not self._trusted(self.path, stat.S_ISDIR, "directory"):
            return None
        found = []
        for user in users:
            self._look_at(user)
            key = self._files.get(user, _NOTHING).keys.get(blob)
            if key is not None:
                found.append(key)
        if len(found) > 1:
            self._warn_once(
                f"{found[0].user} and {found[1].user} have the same key: who logs in "
                f"as {account} with it cannot be told"
            )
            return None
        return found[0] if found else None

    def renew(self) -> Iterator[None]:
        """Check all files, and read those that have changed, in short steps."""
        seen = set()
        cost = 0
        try:
            if not self._trusted(self.path, stat.S_ISDIR, "directory"):
                return
            with os.scandir(self.path) as entries:
                for entry in entries:
                    if _has_keys(entry.name):
                        seen.add(entry.name)
                        cost += _READING if self._look_at(entry.name) else 1
                        if cost >= _STEP:
                            cost = 0
                            yield
        except OSError as error:
            self._warn_once(f"cannot read {self.path}: {error.strerror}")
        for user in self._files.keys() - seen:
            self._remember(user, _NOTHING)

    # -- one file --------------------------------------------------------------

    def _look_at(self, user: str) -> bool:
        """Read the file of *user* if it has changed; whether it was read."""
        path = os.path.join(self.path, user)
        found = self._trusted(path, stat.S_ISREG, "file")
        if found is None:
            self._remember(user, _NOTHING)
            return False
        state = _state(found)
        if self._files.get(user, _NOTHING).state == state:
            return False
        now = time.time()
        lines = self._lines(path)
        keys: dict[bytes, AuthorizedKey] = {}
        for number, line in enumerate(lines or (), 1):
            try:
                key = parse_line(line, user)
            except KeyLineError as error:
                self._warn_once(f"{path}:{number}: {error}; the line is ignored")
                continue
            if key is not None:
                keys.setdefault(key.blob, key)
        settled = lines is not None and found.st_ctime < now - _SETTLED
        self._remember(user, _File(state if settled else None, keys))
        return True

    def _remember(self, user: str, file: _File) -> None:
        before = self._files.pop(user, _NOTHING)
        for blob in before.keys.keys() - file.keys.keys():
            users = self._users[blob]
            users.discard(user)
            if not users:
                del self._users[blob]
        for blob in file.keys.keys() - before.keys.keys():
            self._users.setdefault(blob, set()).add(user)
        if file is not _NOTHING:
            self._files[user] = file

    def _lines(self, path: str) -> list[str] | None:
        """The lines of a file; None if it could not be read."""
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                text = file.read(_MAX_FILE + 1)
        except OSError as error:
            self._warn_once(f"cannot read {path}: {error.strerror}")
            return None
        lines = text.split("\n")
        if len(text) > _MAX_FILE:
            self._warn_once(f"{path} is longer than {_MAX_FILE}: the rest is ignored")
            del lines[-1]
        return lines

    def _trusted(
        self, path: str, is_kind: Callable[[int], bool], kind: str
    ) -> os.stat_result | None:
        """The stat of *path*; None if it is missing or others may have written it."""
        try:
            found = os.stat(path)
        except OSError as error:
            if kind == "directory" or not isinstance(error, FileNotFoundError):
                self._warn_once(f"cannot read {path}: {error.strerror}")
            return None
        fault = _distrust(path, found, is_kind, kind)
        if fault is not None:
            self._warn_once(f"{fault}; the file is ignored")
            return None
        return found

    def _warn_once(self, text: str) -> None:
        if len(self._warned) > 1000:
            self._warned.clear()
        if text not in self._warned:
            self._warned.add(text)
            log.warning("%s", text)


def _has_keys(name: str) -> bool:
    """Whether *name* is a USER, and not the backup file of an editor."""
    return is_user(name) and not name.endswith("~")


def _state(found: os.stat_result) -> tuple[int, ...]:
    """A value that differs after a change; no process can set the ctime in it."""
    return (
        *(found.st_dev, found.st_ino, found.st_size),
        *(found.st_mtime_ns, found.st_ctime_ns),
    )


def _distrust(
    path: str, found: os.stat_result, is_kind: Callable[[int], bool], kind: str
) -> str | None:
    """Why other users may have written *path*; None if they cannot."""
    if not is_kind(found.st_mode):
        return f"{path} is not a {kind}"
    if found.st_uid not in (0, os.geteuid()):
        return f"{path} is owned by uid {found.st_uid}, not by uid {os.geteuid()}"
    if found.st_mode & 0o022:
        mode = stat.S_IMODE(found.st_mode)
        return f"{path} is writable by others (mode {mode:04o})"
    return None
