# SPDX-License-Identifier: GPL-2.0-or-later

"""Public keys: what people give as theirs, and what lines of authorized_keys say."""

from __future__ import annotations

import base64
import hashlib
import os
import shlex
from typing import NamedTuple

from ..errors import LpserveError
from ..location import HEALTH_USER
from ..ssh.authorizedkeys import KeyLine, KeyLineError, split_line
from ..wire import USER_PATTERN, is_user

#: Bytes that a file of public keys may have.
MOST = 1 << 16
#: Bits of an RSA key that sshd and 'lp-serve-ssh' take.
_RSA_BITS = 2048


class KeyFileError(LpserveError):
    """A name or a key cannot be used; ``str()`` is one line."""


class PublicKey(NamedTuple):
    """A key without options.

    :ivar blob: the key as it is sent (:rfc:`4253`, section 6.6).
    """

    kind: str
    blob: bytes
    comment: str

    @property
    def text(self) -> str:
        """The line of a file that has no options."""
        encoded = base64.b64encode(self.blob).decode("ascii")
        return f"{self.kind} {encoded} {self.comment}".rstrip()


def check_name(name: str) -> None:
    """Check that *name* can be a user.

    :raises KeyFileError: if not.
    """
    if not is_user(name):
        raise KeyFileError(f"a NAME must match {USER_PATTERN}, unlike {name!r}")
    if name.endswith("~"):
        raise KeyFileError(
            f"{name!r} would be taken for the backup file of an editor; "
            "choose another NAME"
        )
    if name == HEALTH_USER:
        raise KeyFileError(f"{name} is the user of 'lp-serve-control health'")


def fingerprint(blob: bytes) -> str:
    """The SHA256 fingerprint of a key, as ``ssh-keygen -l`` shows it."""
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii")
    return "SHA256:" + digest.rstrip("=")


def parse_keys(data: bytes, file: str) -> list[PublicKey]:
    """The keys in what somebody gives as a file of public keys.

    :param file: its name, for errors.
    :raises KeyFileError: if there is none, or one that cannot be used.
    """
    if len(data) > MOST:
        raise KeyFileError(f"{file} is longer than {MOST} bytes: not public keys")
    text = data.decode("utf-8", "replace")
    if "PRIVATE KEY-----" in text or text.startswith("PuTTY-User-Key-File"):
        raise KeyFileError(
            f"{file} is a private key, which nobody else should have: "
            f"give its public half, as in {os.path.basename(file)}.pub"
        )
    if text.lstrip().startswith("---- BEGIN SSH2 PUBLIC KEY"):
        raise KeyFileError(
            f"{file} is not in OpenSSH's format; convert it: ssh-keygen -i -f {file}"
        )
    found: list[PublicKey] = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            key = split_line(line)
        except KeyLineError as error:
            raise KeyFileError(f"{file}:{number}: {error}") from None
        if key is None:
            continue
        fault = _fault(key)
        if fault is not None:
            raise KeyFileError(f"{file}:{number}: {fault}")
        if all(key.blob != each.blob for each in found):
            found.append(PublicKey(key.kind, key.blob, _printable(key.comment)))
    if not found:
        raise KeyFileError(f"there is no public key in {file}")
    return found


def _fault(key: KeyLine) -> str | None:
    """Why *key* cannot be a user's."""
    if key.options:
        return "the key has options before it; give the key alone"
    if "-cert-" in key.kind:
        return "this is a certificate; give the public key"
    if key.kind == "ssh-dss":
        return "DSA keys are refused by SSH servers; make one: ssh-keygen -t ed25519"
    if key.kind == "ssh-rsa" and _rsa_bits(key.blob) < _RSA_BITS:
        return (
            f"an RSA key needs {_RSA_BITS} bits, this has {_rsa_bits(key.blob)}; "
            "make one: ssh-keygen -t ed25519"
        )
    return None


def _rsa_bits(blob: bytes) -> int:
    """The bits of the modulus, the last of the three strings in *blob*."""
    start = 0
    for _ in range(2):
        start += 4 + int.from_bytes(blob[start : start + 4], "big")
    return int.from_bytes(blob[start + 4 :], "big").bit_length()


def _printable(text: str) -> str:
    return "".join(each for each in text if each.isprintable())[:200]


# -- lines of sshd's authorized_keys ----------------------------------------------


class Forced(NamedTuple):
    """A forced command that is lpserve's.

    :ivar program: its first word.
    :ivar user: for whom it asks for a worker.
    """

    program: str
    user: str


def forced_line(client: str, user: str, key: PublicKey) -> str:
    """The line that has *key* run the client for *user*, and nothing else.

    :param client: the absolute path of the client.
    :raises KeyFileError: if the path cannot be in such a line.
    """
    command = shlex.join([client, user])
    if not command.isprintable() or '"' in command or "\\" in command:
        raise KeyFileError(f"{client!r} cannot be named in authorized_keys; move it")
    return f'command="{command}",restrict {key.text}'


def command_of(line: KeyLine) -> str | None:
    """The forced command of a line; None if it has none."""
    return next((value for name, value in line.options if name == "command"), None)


def parse_forced(command: str | None) -> Forced | None:
    """What a forced command asks for; None if it is not lpserve's."""
    try:
        words = shlex.split(command or "")
    except ValueError:
        return None
    while words and words[0] in ("exec", "env", "/usr/bin/env"):
        words.pop(0)
        while words and "=" in words[0]:
            words.pop(0)
    if not words:
        return None
    program = words[0]
    known = ("lp-serve-client", "lp-serve")
    if os.path.basename(program) != "lp-serve-client" and not set(words) & set(known):
        return None
    given = _without_options(words[1:])
    return Forced(program, given[-1]) if given and is_user(given[-1]) else None


def _without_options(words: list[str]) -> list[str]:
    """Those of *words* that are neither options nor the values of some."""
    found, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word in ("--runtime-dir", "--door"):
            skip = True
        elif not word.startswith("-") and word not in ("lp-serve-client", "lp-serve"):
            found.append(word)
    return found
