# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""The keys of the SSH server: its own, and the check of its users'."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.conch.checkers import InMemorySSHKeyDB, SSHPublicKeyChecker
from twisted.conch.ssh.common import NS
from twisted.conch.ssh.keys import EncryptedKeyError, FingerprintFormats, Key
from twisted.conch.ssh.transport import SSHServerTransport
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import ISSHPrivateKey
from twisted.cred.error import UnauthorizedLogin
from twisted.internet import defer
from zope.interface import implementer

from .authorizedkeys import KeyDirectory
from .errors import ConfigurationError

#: Algorithms of users' signatures; not the ones with SHA-1.
SIGNATURES = (
    b"sk-ssh-ed25519@openssh.com",
    b"sk-ecdsa-sha2-nistp256@openssh.com",
    *(
        name
        for name in SSHServerTransport.supportedPublicKeys
        if name not in (b"ssh-rsa", b"ssh-dss")
    ),
)


class Login(NamedTuple):
    """Who has logged in, and how.

    :ivar fingerprint: of the key, as ``ssh-keygen -l`` shows it.
    :ivar environment: what the key's ``environment`` options say.
    """

    user: str
    fingerprint: str
    environment: dict[str, str]


@implementer(ICredentialsChecker)
class KeyChecker:
    """Lets in who has the private key to a public one of the directory."""

    credentialInterfaces = (ISSHPrivateKey,)

    def __init__(self, directory: KeyDirectory):
        self._directory = directory

    def requestAvatarId(self, credentials: Any) -> defer.Deferred[Login]:
        """A `Login`; Twisted's own checker verifies the signature.

        The Deferred fails with `UnauthorizedLogin`, or with `ValidPublicKey` if
        it was only asked whether the key would do.
        """
        try:
            account = credentials.username.decode("utf-8")
            key = Key.fromString(credentials.blob)
        except Exception:
            # Whatever Twisted makes of something that is no key.
            return defer.fail(UnauthorizedLogin("no such account or key"))
        found = self._directory.find(account, credentials.blob)
        signature = credentials.signature
        if (
            found is None
            or credentials.algName not in SIGNATURES
            # Twisted goes by what the signature says of itself.
            or (signature and not signature.startswith(NS(credentials.algName)))
        ):
            # Now: Twisted's checker says of every key that it would do.
            return defer.fail(UnauthorizedLogin("no such account or key"))
        checker = SSHPublicKeyChecker(InMemorySSHKeyDB({credentials.username: [key]}))
        checked: defer.Deferred[Any] = checker.requestAvatarId(credentials)

        def verified(ignored: Any) -> Login:
            return Login(found.user, fingerprint(key), found.environment)

        return checked.addCallback(verified)


def fingerprint(key: Key) -> str:
    """The SHA256 fingerprint of *key*, as ``ssh-keygen -l`` shows it."""
    return "SHA256:" + key.fingerprint(FingerprintFormats.SHA256_BASE64).rstrip("=")


def host_key(path: str) -> Key:
    """The host key in the file *path*, which is made if there is none.

    :raises ConfigurationError: if it cannot be made, read or kept secret.
    """
    try:
        if not os.path.lexists(path):
            _make_host_key(path)
        # A FIFO in its place would keep us waiting.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(1 << 16)
    except OSError as error:
        raise ConfigurationError(
            f"cannot read or make the host key {path}: {error.strerror}"
        ) from None
    if mode & 0o077:
        raise ConfigurationError(
            f"the host key {path} can be read by others (mode {mode:04o}); "
            "chmod it to 0600"
        )
    try:
        key = Key.fromString(data)
    except EncryptedKeyError:
        raise ConfigurationError(f"the host key {path} has a passphrase") from None
    except Exception:
        # Whatever its parsers make of a file that is something else.
        raise ConfigurationError(f"{path} is not a private key") from None
    if key.isPublic():
        raise ConfigurationError(f"{path} is a public key, not a private one")
    return key


def _make_host_key(path: str) -> None:
    """Make an ed25519 key that is complete when it is seen under its name."""
    os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
    text = Key(Ed25519PrivateKey.generate()).toString("OPENSSH")
    unfinished = f"{path}.{os.getpid()}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with contextlib.suppress(FileNotFoundError):
        os.unlink(unfinished)
    try:
        with open(os.open(unfinished, flags, 0o600), "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # Of two servers that begin at once both use the first one's.
        with contextlib.suppress(FileExistsError):
            os.link(unfinished, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(unfinished)
