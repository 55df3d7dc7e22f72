# SPDX-License-Identifier: GPL-2.0-or-later

"""Where it is written who may log in: sshd's file of the account, or a directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from ..ssh.authorizedkeys import KeyLineError, split_line
from .editing import Editor
from .publickeys import (
    KeyFileError,
    PublicKey,
    check_name,
    command_of,
    fingerprint,
    forced_line,
    parse_forced,
)

#: The names of the two servers.
SSHD, LP_SERVE_SSH = "sshd", "lp-serve-ssh"


class Entry(NamedTuple):
    """A key that is let in.

    :ivar user: as whom; None if that is not lpserve's to say.
    :ivar where: the file.
    """

    user: str | None
    blob: bytes
    kind: str
    comment: str
    where: str

    @property
    def shown(self) -> str:
        """One line for a person."""
        words = [self.user or "-", self.kind, fingerprint(self.blob), self.comment]
        return " ".join(word for word in words if word)


class AuthorizedKeys:
    """The file authorized_keys of the account, for sshd.

    :param path: absolute.
    :param owner: uid and gid of the account.
    :param client: the absolute path of the client for new lines; None if there is none.
    """

    server = SSHD

    def __init__(self, path: str, owner: tuple[int, int], client: str | None):
        self.path = path
        self._directory, self._name = os.path.split(path)
        self._owner = owner
        self._client = client

    @property
    def exists(self) -> bool:
        """Whether there is something to read."""
        return os.path.lexists(self.path)

    def _edit(self, create: bool = False) -> Editor:
        owners = (0, self._owner[0])
        return Editor(self._directory, owners, self._owner if create else None)

    def entries(self) -> list[Entry]:
        """The keys in it.

        :raises EditError: if it cannot be read.
        """
        with self._edit() as editor:
            return [each for each, _ in self._parse(editor.read(self._name) or "")]

    def _parse(self, text: str) -> Iterator[tuple[Entry, str]]:
        for line in text.splitlines(keepends=True):
            try:
                key = split_line(line)
            except KeyLineError:
                continue  # which sshd ignores, and 'check' names
            if key is not None:
                forced = parse_forced(command_of(key))
                user = forced.user if forced is not None else None
                comment = "".join(c for c in key.comment if c.isprintable())
                yield Entry(user, key.blob, key.kind, comment, self.path), line

    def add(self, name: str, keys: list[PublicKey]) -> list[PublicKey]:
        """Let *name* in with *keys*; those that were not in it.

        :raises EditError, KeyFileError: if that cannot be; then nothing has changed.
        """
        check_name(name)
        if self._client is None:
            raise KeyFileError("there is no lp-serve-client to name; install it")
        with self._edit(create=True) as editor:
            text = editor.read(self._name) or ""
            new = refuse_others(name, keys, [each for each, _ in self._parse(text)])
            lines = [forced_line(self._client, name, key) for key in new]
            if text and not text.endswith("\n"):
                text += "\n"
            if new:
                text += "".join(f"{line}\n" for line in lines)
                editor.write(self._name, text, 0o600, self._owner)
        return new

    def remove(self, name: str) -> int:
        """Take out the keys of *name*; how many.

        :raises EditError: if that cannot be; then nothing has changed.
        """
        check_name(name)
        with self._edit() as editor:
            text = editor.read(self._name) or ""
            gone = [line for entry, line in self._parse(text) if entry.user == name]
            if gone:
                kept = [
                    line for line in text.splitlines(keepends=True) if line not in gone
                ]
                editor.write(self._name, "".join(kept), 0o600, self._owner)
            return len(gone)


class KeyFiles:
    """The directory of public keys of 'lp-serve-ssh': a file for each user.

    :param path: absolute.
    :param owner: uid and gid of the account.
    """

    server = LP_SERVE_SSH

    def __init__(self, path: str, owner: tuple[int, int]):
        self.path = path
        self._owner = owner
        self._owners = (0, owner[0])

    @property
    def exists(self) -> bool:
        """Whether there is something to read."""
        return os.path.lexists(self.path)

    def entries(self) -> list[Entry]:
        """The keys in it.

        :raises EditError: if it cannot be read.
        """
        with Editor(self.path, self._owners) as editor:
            return list(self._entries(editor))

    def _entries(self, editor: Editor) -> Iterator[Entry]:
        for name in editor.names():
            try:
                check_name(name)
            except KeyFileError:
                continue  # which the server ignores, and 'check' names
            for line in (editor.read(name) or "").splitlines():
                try:
                    key = split_line(line)
                except KeyLineError:
                    continue
                if key is not None:
                    where = os.path.join(self.path, name)
                    comment = "".join(c for c in key.comment if c.isprintable())
                    yield Entry(name, key.blob, key.kind, comment, where)

    def add(self, name: str, keys: list[PublicKey]) -> list[PublicKey]:
        """Let *name* in with *keys*; those that were not in it.

        :raises EditError, KeyFileError: if that cannot be; then nothing has changed.
        """
        check_name(name)
        with Editor(self.path, self._owners, self._owner) as editor:
            new = refuse_others(name, keys, list(self._entries(editor)))
            if new:
                text = editor.read(name) or ""
                if text and not text.endswith("\n"):
                    text += "\n"
                text += "".join(f"{key.text}\n" for key in new)
                # Public keys are no secret, and the server need not be the owner.
                editor.write(name, text, 0o644)
            return new

    def remove(self, name: str) -> int:
        """Take out the file of *name*; how many keys were in it.

        :raises EditError, KeyFileError: if that cannot be.
        """
        check_name(name)
        with Editor(self.path, self._owners) as editor:
            if name not in editor.names():
                return 0
            count = sum(1 for each in self._entries(editor) if each.user == name)
            if not count and (editor.read(name) or "").strip():
                # Root may have been led here by a breezy.conf of the account.
                raise KeyFileError(f"{self.path}/{name} has no keys: remove it by hand")
            editor.remove(name)
            return count


Store = AuthorizedKeys | KeyFiles


def refuse_others(
    name: str, keys: list[PublicKey], entries: list[Entry]
) -> list[PublicKey]:
    """Those of *keys* that *entries* do not have for *name*.

    :raises KeyFileError: if one of them is somebody else's.
    """
    new = list(keys)
    for entry in entries:
        for key in keys:
            if key.blob != entry.blob:
                continue
            if entry.user != name:
                whose = f"is {entry.user}'s already" if entry.user else "is in use"
                raise KeyFileError(
                    f"the key {fingerprint(key.blob)} {whose}, in {entry.where}: "
                    "who logs in with it could not be told"
                )
            if key in new:
                new.remove(key)
    return new
