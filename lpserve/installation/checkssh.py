# SPDX-License-Identifier: GPL-2.0-or-later

"""Checks what 'lp-serve-ssh' needs, and greets it if it runs."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shlex
import stat
from collections.abc import Iterator

from ..loginrules import is_in
from ..settings import Settings
from ..ssh.authorizedkeys import KeyLineError, parse_line
from .checksshd import read_banner
from .findings import Finding, error, note, warning
from .modes import check_trusted
from .place import Place
from .programs import find, run
from .publickeys import KeyFileError, check_name
from .unitfiles import find_unit

UNIT = "lpserve-ssh.service"
#: What its first line begins with.
_BANNER = "SSH-2.0-lpserve"
#: What a proxy sends that only looks whether it is there.
_OF_A_PROXY = b"PROXY UNKNOWN\r\n"


def is_used(place: Place) -> bool:
    """Whether somebody wants 'lp-serve-ssh' to run.

    A breezy.conf that names its keys is not enough where the service has a unit: Debian
    has it in a package of its own, and the file in that of the service.
    """
    if os.path.isdir(place.keys_directory) or find_unit(UNIT, place.units) is not None:
        return True
    named = place.option("authorized_keys") is not None
    return named and find_unit("lpserve.service", place.units) is None


def check_ssh(place: Place, settings: Settings) -> Iterator[Finding]:
    """Check its keys, its address and that it answers; nothing if it is not used."""
    if not is_used(place):
        return
    if importlib.util.find_spec("twisted") is None:
        yield error(
            "lp-serve-ssh needs Twisted, which this Python has not",
            "apt install python3-twisted, or pip install 'brz-lpserve[ssh]'",
        )
    yield from _check_keys(place)
    yield from _check_host_key(place)
    yield from _check_address(place, settings)


def _check_keys(place: Place) -> Iterator[Finding]:
    path = place.keys_directory
    if not os.path.isdir(path):
        why = "is not a directory" if os.path.exists(path) else "is missing"
        yield error(
            f"the directory of public keys, {path}, {why}",
            f"install -d -m 0755 {shlex.quote(path)}",
        )
        return
    yield from check_trusted(path, place.uid, place.account)
    try:
        names = sorted(os.listdir(path))
    except OSError as fault:
        remedy = f"chown {place.account} {shlex.quote(path)}"
        yield error(f"{path}: {fault.strerror}", remedy)
        return
    users: dict[bytes, str] = {}
    for name in names:
        if name.startswith("."):
            continue
        file = os.path.join(path, name)
        try:
            check_name(name)
        except KeyFileError:
            yield warning(
                f"{file} lets nobody in: {name} is no name of a user",
                "rename it; a file of keys has the name of its user, without .pub",
            )
            continue
        yield from _check_file(place, file, name, users)


def _check_file(
    place: Place, path: str, user: str, users: dict[bytes, str]
) -> Iterator[Finding]:
    """Check one file of keys.

    :param users: to whom the keys seen so far belong; more are added.
    """
    if not os.path.isfile(path):
        yield error(f"{path} is not a file", "remove it")
        return
    yield from check_trusted(path, place.uid, place.account)
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read(1 << 20).splitlines()
    except OSError as fault:
        remedy = f"chmod 0644 {shlex.quote(path)}"
        yield error(f"{path}: {fault.strerror}", remedy)
        return
    if any("PRIVATE KEY-----" in line for line in lines):
        yield error(
            f"{path} is a private key",
            f"replace it by the public key, and have {user} make another one",
        )
        return
    for number, line in enumerate(lines, 1):
        try:
            key = parse_line(line, user)
        except KeyLineError as fault:
            yield error(f"{path}:{number}: {fault}", "correct or remove the line")
            continue
        if key is not None and users.setdefault(key.blob, user) != user:
            yield error(
                f"{path}:{number}: {users[key.blob]} has the same key: who logs in "
                "with it to the shared account cannot be told",
                "remove one of the two",
            )


def _check_host_key(place: Place) -> Iterator[Finding]:
    path = place.host_key
    quoted = shlex.quote(path)
    try:
        found = os.stat(path)
    except FileNotFoundError:
        above = os.path.dirname(path)
        while not os.path.lexists(above):
            above = os.path.dirname(above)
        if not os.access(above, os.W_OK | os.X_OK):
            yield error(
                f"there is no host key {path}, and {place.account} cannot make it",
                f"ssh-keygen -t ed25519 -N '' -f {quoted}; "
                f"chown {place.account} {quoted}",
            )
        return
    except OSError as fault:
        yield error(f"the host key {path}: {fault.strerror}", "correct that")
        return
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        yield error(
            f"the host key {path} can be read by others (mode {mode:04o})",
            f"chmod 0600 {quoted}, and better make another one",
        )
    if not os.access(path, os.R_OK):
        yield error(
            f"the host key {path} cannot be read by {place.account}",
            f"chown {place.account} {quoted}",
        )
        return
    with open(path, "rb") as file:
        data = file.read(1 << 16)
    if b"PRIVATE KEY-----" not in data:
        yield error(
            f"the host key {path} is not a private key",
            "name the file without .pub in lpserve.host_key",
        )


def _check_address(place: Place, settings: Settings) -> Iterator[Finding]:
    host, separator, port = settings.listen.rpartition(":")
    number = int(port) if port.isascii() and port.isdigit() else -1
    if not separator or not 0 <= number <= 65535:
        yield error(
            f"lpserve.listen must be HOST:PORT, not {settings.listen}",
            f"correct it in {place.config}, as in 0.0.0.0:5022",
        )
        return
    host = host.strip("[]") or "0.0.0.0"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    # It is greeted from the address that it listens on, as by a proxy that is there.
    behind = False
    with contextlib.suppress(ValueError):  # a name and not an address
        behind = is_in(host, settings.proxy_protocol_from)
    banner = read_banner((host, number), first=_OF_A_PROXY if behind else b"")
    if not banner:
        yield note(
            f"lp-serve-ssh does not answer at {host}:{number}",
            f"start it: systemctl start {UNIT}",
        )
    elif not banner.startswith(_BANNER):
        yield error(
            f"another program answers at {host}:{number}: {banner[:60]!r}",
            f"set another lpserve.listen in {place.config}",
        )
    elif not behind:
        yield from _exchange_keys(place, host, number)


def _exchange_keys(place: Place, host: str, port: int) -> Iterator[Finding]:
    """Exchange keys with it, as each client does first."""
    program = find("ssh-keyscan", os.environ.get("PATH", os.defpath))
    if program is None:
        return
    # One type after the other: each connection without a login is held against its
    # source (lpserve.per_source_penalties).
    for kind in ("ed25519", "ecdsa", "rsa"):
        words = [program, "-T", "10", "-t", kind, "-p", str(port), host]
        done = run(words, {"PATH": os.defpath})
        if any(line[:1] != "#" for line in done.out.splitlines()):
            return
    yield error(
        f"lp-serve-ssh at {host}:{port} does not exchange keys",
        f"see its log: journalctl -u {UNIT}",
    )
