# SPDX-License-Identifier: GPL-2.0-or-later

"""Verifies logins by public key; loads or creates the host key."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.conch.checkers import InMemorySSHKeyDB, SSHPublicKeyChecker
from twisted.conch.ssh.common import NS, getNS
from twisted.conch.ssh.keys import EncryptedKeyError, FingerprintFormats, Key
from twisted.conch.ssh.transport import SSHServerTransport
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import ISSHPrivateKey
from twisted.cred.error import UnauthorizedLogin
from twisted.internet import defer
from zope.interface import implementer

from ..errors import ConfigurationError
from .keydirectory import KeyDirectory

log = logging.getLogger("lpserve")

#: The signature algorithms that are accepted; none with SHA-1.
SIGNATURES = (
    b"sk-ssh-ed25519@openssh.com",
    b"sk-ecdsa-sha2-nistp256@openssh.com",
    *(
        name
        for name in SSHServerTransport.supportedPublicKeys
        if name not in (b"ssh-rsa", b"ssh-dss")
    ),
)


#: Seconds between two steps of `KeyDirectory.renew`. A step takes an eighth of a
#: millisecond, so they delay another login of some 20 ms by half a millisecond.
_PAUSE = 0.005


class Login(NamedTuple):
    """A successful login.

    :ivar user: USER.
    :ivar fingerprint: of the key, as ``ssh-keygen -l`` shows it.
    :ivar environment: of the key's ``environment`` options.
    """

    user: str
    fingerprint: str
    environment: dict[str, str]


@implementer(ICredentialsChecker)
class KeyChecker:
    """Accepts the logins with keys of a `KeyDirectory`."""

    credentialInterfaces = (ISSHPrivateKey,)

    def __init__(self, directory: KeyDirectory, reactor: Any):
        self._directory = directory
        self._reactor = reactor
        #: The renewal that is running, and the logins that wait for it.
        self._renewal: Iterator[None] | None = None
        self._served: list[defer.Deferred[None]] = []
        #: The logins that wait for the next renewal: the running one may have passed
        #: a file before it was changed.
        self._waiting: list[defer.Deferred[None]] = []
        self.has_account = directory.has_account

    def find(self, user: bytes, blob: bytes) -> Any:
        """The entry for a login as *user* with the key *blob*; None: refuse it.

        If all files have to be checked, this returns a Deferred of it, so that other
        connections do not wait.
        """
        account = user.decode("utf-8", "replace")
        found = self._directory.known(account, blob)
        if found is not None or not self._directory.is_shared(account):
            return found
        renewed: defer.Deferred[None] = defer.Deferred()
        self._waiting.append(renewed)
        if self._renewal is None:
            self._begin()
            self._step()
        return renewed.addCallback(lambda ignored: self._directory.known(account, blob))

    def _begin(self) -> None:
        self._renewal = self._directory.renew()
        self._served, self._waiting = self._waiting, []

    def _step(self) -> None:
        assert self._renewal is not None
        try:
            for _ in self._renewal:
                self._reactor.callLater(_PAUSE, self._step)
                return
        except Exception:
            # The waiting logins are decided by what is known.
            log.exception("looking at the files of keys has failed")
        served, self._renewal = self._served, None
        if self._waiting:
            self._begin()
            self._reactor.callLater(_PAUSE, self._step)
        for each in served:
            each.callback(None)

    def requestAvatarId(self, credentials: Any) -> defer.Deferred[Login]:
        """Verify a login; a Deferred `Login`. Twisted verifies the signature.

        The Deferred fails with `UnauthorizedLogin`, or with `ValidPublicKey` for a
        query without signature whether the key is acceptable.
        """
        try:
            account = credentials.username.decode("utf-8")
            found = self._directory.find(account, credentials.blob)
            # Only known keys are parsed: the cost of others is up to the client.
            key = Key.fromString(credentials.blob) if found else None
        except Exception:
            # Twisted raises various exceptions for invalid keys.
            found = key = None
        signature = credentials.signature
        if (
            found is None
            or key is None
            or credentials.algName not in SIGNATURES
            # Twisted trusts the algorithm name in the signature.
            or (signature and not signature.startswith(NS(credentials.algName)))
            or (signature and not _has_flags(credentials.blob, signature, found.flags))
        ):
            # Here, because Twisted's checker accepts every key in a query.
            return defer.fail(UnauthorizedLogin("no such account or key"))
        checker = SSHPublicKeyChecker(InMemorySSHKeyDB({credentials.username: [key]}))
        checked: defer.Deferred[Any] = checker.requestAvatarId(credentials)

        def verified(ignored: Any) -> Login:
            return Login(found.user, fingerprint(key), found.environment)

        return checked.addCallback(verified)


def _has_flags(blob: bytes, signature: bytes, flags: int) -> bool:
    """Whether the *signature* of a FIDO key has *flags* set; True for other keys.

    The signature covers the flags. Twisted verifies it, and ignores the flags.

    :param blob: the key, which Twisted has parsed.
    """
    key_kind = getNS(blob)[0]
    if not key_kind.startswith(b"sk-"):
        return True
    try:
        kind, _, rest = getNS(signature, 2)
    except struct.error:
        return False
    # The flags, and a counter, which is not used.
    return kind == key_kind and len(rest) == 5 and rest[0] & flags == flags


def fingerprint(key: Key) -> str:
    """The SHA256 fingerprint of *key*, as ``ssh-keygen -l`` shows it."""
    return "SHA256:" + key.fingerprint(FingerprintFormats.SHA256_BASE64).rstrip("=")


def host_key(path: str) -> Key:
    """Load the host key from the file *path*, which is created if it is missing.

    :raises ConfigurationError: if it cannot be created or read, if others can read
        it, or if it is not a private key without passphrase.
    """
    try:
        if not os.path.lexists(path):
            _make_host_key(path)
        # O_NONBLOCK, in case it is a FIFO.
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
        # Twisted raises various exceptions for other files.
        raise ConfigurationError(f"{path} is not a private key") from None
    if key.isPublic():
        raise ConfigurationError(f"{path} is a public key, not a private one")
    return key


def _make_host_key(path: str) -> None:
    """Create an ed25519 key; the file is complete before it gets its name."""
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
        # If two servers start at once, both use the key of the first one.
        with contextlib.suppress(FileExistsError):
            os.link(unfinished, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(unfinished)
