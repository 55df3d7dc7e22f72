# SPDX-License-Identifier: GPL-2.0-or-later

"""Lets users in, lists them, and takes them out: ``lp-serve-setup user``."""

from __future__ import annotations

import os
import sys

from ..errors import ConfigurationError, os_fault
from .place import Place
from .publickeys import MOST, KeyFileError, check_name, fingerprint, parse_keys
from .sshdsettings import SshdFault, ask_sshd
from .stores import LP_SERVE_SSH, SSHD, AuthorizedKeys, KeyFiles, Store, refuse_others


def find_stores(place: Place, server: str | None) -> list[Store]:
    """Where keys may be, that where a new one belongs first.

    :param server: `SSHD` or `LP_SERVE_SSH`; None: either, and a new key belongs to
        'lp-serve-ssh' if that has a directory of keys.
    :raises ConfigurationError: if there is no such server.
    """
    if server not in (None, SSHD, LP_SERVE_SSH):
        raise ConfigurationError(f"--for must be {SSHD} or {LP_SERVE_SSH}")
    owner = place.uid, place.gid
    files = KeyFiles(place.keys_directory, owner)
    lines = AuthorizedKeys(_sshd_file(place), owner, place.find_client())
    if server is not None:
        return [files if server == LP_SERVE_SSH else lines]
    first = place.option("authorized_keys") is not None or files.exists
    return [files, lines] if first else [lines, files]


def _sshd_file(place: Place) -> str:
    """The authorized_keys file that sshd reads for the account."""
    try:
        found = ask_sshd(place).key_files(place.account, place.home)
    except SshdFault:
        found = []
    return found[0] if found else os.path.join(place.home, ".ssh", "authorized_keys")


def read_keys(path: str) -> bytes:
    """The bytes of a file of keys; "-" is standard input.

    :raises KeyFileError: if it cannot be read.
    """
    try:
        if path == "-":
            return sys.stdin.buffer.read(MOST + 1)
        # O_NONBLOCK, in case it is a FIFO.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            return file.read(MOST + 1)
    except OSError as error:
        raise KeyFileError(os_fault(error)) from None


def add_user(place: Place, server: str | None, name: str, path: str) -> list[str]:
    """Let *name* in with the keys in the file *path*; a line for each key.

    :raises LpserveError: if that cannot be; then nothing has changed.
    """
    check_name(name)
    keys = parse_keys(read_keys(path), path if path != "-" else "standard input")
    store, *others = find_stores(place, server)
    for other in others or find_stores(place, None):
        if other.path != store.path and other.exists:
            refuse_others(name, keys, other.entries())
    new = store.add(name, keys)
    return [
        f"{name}: {fingerprint(key.blob)} "
        + ("added to" if key in new else "is already in")
        + f" {store.path}"
        for key in keys
    ]


def list_users(place: Place, server: str | None) -> list[str]:
    """A line for each key: user, type, fingerprint, comment.

    :raises LpserveError: if a file cannot be read.
    """
    found = []
    for store in find_stores(place, server):
        if store.exists:
            found += [f"{store.server} {each.shown}" for each in store.entries()]
    return found


def remove_user(place: Place, server: str | None, name: str) -> list[str]:
    """Take out all keys of *name*; a line for each file.

    :raises LpserveError: if that cannot be, or there are none.
    """
    check_name(name)
    found = []
    for store in find_stores(place, server):
        count = store.remove(name) if store.exists else 0
        if count:
            keys = "1 key" if count == 1 else f"{count} keys"
            found.append(f"{name}: {keys} removed from {store.path}")
    if not found:
        raise KeyFileError(
            f"{name} has no key here; see 'brz lp-serve-setup user list'"
        )
    return found
