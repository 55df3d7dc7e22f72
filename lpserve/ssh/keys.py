# SPDX-License-Identifier: GPL-2.0-or-later

"""The keys of the SSH server: its own, and the check of its users'."""

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


#: Seconds between two steps of looking at all files, which take an eighth of a
#: millisecond each: so a login, of some 20 ms, waits half a millisecond for them.
_PAUSE = 0.005


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

    def __init__(self, directory: KeyDirectory, reactor: Any):
        self._directory = directory
        self._reactor = reactor
        #: What looks at all files now, and who waits for that.
        self._renewal: Iterator[None] | None = None
        self._served: list[defer.Deferred[None]] = []
        #: Who waits for the next time: what is being done may have passed the file
        #: that was changed for them.
        self._waiting: list[defer.Deferred[None]] = []
        self.has_account = directory.has_account

    def find(self, user: bytes, blob: bytes) -> Any:
        """Who logs in as *user* with the key *blob*: a key of theirs, or None.

        Nobody else's packets wait for it: where all files have to be looked at, that
        is done a few at a time, and a Deferred is returned.
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
            # Whoever waits is let in by what is known.
            log.exception("looking at the files of keys has failed")
        served, self._renewal = self._served, None
        if self._waiting:
            self._begin()
            self._reactor.callLater(_PAUSE, self._step)
        for each in served:
            each.callback(None)

    def requestAvatarId(self, credentials: Any) -> defer.Deferred[Login]:
        """A `Login`; Twisted's own checker verifies the signature.

        The Deferred fails with `UnauthorizedLogin`, or with `ValidPublicKey` if
        it was only asked whether the key would do.
        """
        try:
            account = credentials.username.decode("utf-8")
            found = self._directory.find(account, credentials.blob)
            # Nothing is parsed that nobody has: it takes what a client likes.
            key = Key.fromString(credentials.blob) if found else None
        except Exception:
            # Whatever Twisted makes of something that is no key.
            found = key = None
        signature = credentials.signature
        if (
            found is None
            or key is None
            or credentials.algName not in SIGNATURES
            # Twisted goes by what the signature says of itself.
            or (signature and not signature.startswith(NS(credentials.algName)))
            or (signature and not _has_flags(credentials.blob, signature, found.flags))
        ):
            # Now: Twisted's checker says of every key that it would do.
            return defer.fail(UnauthorizedLogin("no such account or key"))
        checker = SSHPublicKeyChecker(InMemorySSHKeyDB({credentials.username: [key]}))
        checked: defer.Deferred[Any] = checker.requestAvatarId(credentials)

        def verified(ignored: Any) -> Login:
            return Login(found.user, fingerprint(key), found.environment)

        return checked.addCallback(verified)


def _has_flags(blob: bytes, signature: bytes, flags: int) -> bool:
    """Whether a FIDO key's *signature* has these *flags* set; others need none.

    They are signed with the rest, which Twisted verifies, and does not look at them.

    :param blob: the key, which Twisted has understood.
    """
    key_kind = getNS(blob)[0]
    if not key_kind.startswith(b"sk-"):
        return True
    try:
        kind, _, rest = getNS(signature, 2)
    except struct.error:
        return False
    # The flags, and a counter that nobody here remembers.
    return kind == key_kind and len(rest) == 5 and rest[0] & flags == flags


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
