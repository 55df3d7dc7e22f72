# SPDX-License-Identifier: GPL-2.0-or-later

"""The keys of the SSH server: its own, and the check of its users'."""

import errno
import os
import stat
import subprocess

from breezy.tests import TestCaseInTempDir, features
from twisted.conch.error import ValidPublicKey
from twisted.conch.ssh.keys import Key
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import SSHPrivateKey
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from ...lpserve.errors import ConfigurationError
from ...lpserve.ssh.keys import KeyChecker, Login, fingerprint, host_key
from ..harness import DEADLINE
from .test_keydirectory import KeyDirectoryCase

ssh_keygen = features.ExecutableFeature("ssh-keygen")

#: What ssh-keygen is told of a key to make, and the signatures it can make.
KINDS = (
    ("ed25519", "", [b"ssh-ed25519"]),
    ("rsa", "2048", [b"rsa-sha2-256", b"rsa-sha2-512"]),
    ("ecdsa", "256", [b"ecdsa-sha2-nistp256"]),
    ("ecdsa", "384", [b"ecdsa-sha2-nistp384"]),
    ("ecdsa", "521", [b"ecdsa-sha2-nistp521"]),
)


def run_keygen(*words):
    """Run ssh-keygen; what it prints."""
    words, null = ["ssh-keygen", "-q", *words], subprocess.DEVNULL
    return subprocess.check_output(words, stdin=null, text=True, timeout=DEADLINE)


def make_key(path, kind="ed25519", bits="", *options, passphrase=""):
    """Have ssh-keygen make a key; its path."""
    options = [*options, *(["-b", bits] if bits else [])]
    run_keygen("-t", kind, "-N", passphrase, "-C", "made", "-f", path, *options)
    return path


def read(path):
    with open(path, "rb") as file:
        return file.read()


class TestHostKey(TestCaseInTempDir):
    """`host_key`: made once, and reused."""

    def setUp(self):
        super().setUp()
        self.requireFeature(ssh_keygen)
        self.directory = os.path.join(self.test_dir, "made", "here")
        self.path = os.path.join(self.directory, "key")

    def assertUnusable(self, *texts, path=None):
        """The error is one line that names the file."""
        path = path or self.path
        text = str(self.assertRaises(ConfigurationError, host_key, path))
        self.assertNotContainsString(text, "\n")
        for each in (path, *texts):
            self.assertContainsString(text, each)

    def test_made(self):
        """Only the owner can read it, whatever the umask; OpenSSH understands it."""
        previous = os.umask(0)
        try:
            key = host_key(self.path)
        finally:
            os.umask(previous)
        self.assertEqual((b"ssh-ed25519", False), (key.sshType(), key.isPublic()))
        modes = [stat.S_IMODE(os.stat(p).st_mode) for p in (self.path, "made/here")]
        self.assertEqual([0o600, 0o700], modes)
        self.assertEqual(["key"], os.listdir(self.directory))
        # A second call returns the same key; a path may have no directory.
        self.assertEqual(key, host_key(self.path))
        host_key("in this directory")
        kind, text, *_ = run_keygen("-y", "-f", self.path).split()
        self.assertEqual(key.public().toString("OPENSSH").decode(), f"{kind} {text}")

    def test_another_server_was_first(self):
        """The key that has the name first is used by both."""
        real = os.link

        def link(source, target):
            make_key(self.path)
            return real(source, target)

        self.overrideAttr(os, "link", link)
        key = host_key(self.path)
        self.assertEqual(Key.fromFile(self.path), key)
        self.assertEqual(["key", "key.pub"], sorted(os.listdir(self.directory)))

    def test_not_finished(self):
        """A full disk leaves no file; the file of a killed server is replaced."""

        def full(descriptor):
            raise OSError(errno.ENOSPC, "No space left on device")

        real = os.fsync
        self.overrideAttr(os, "fsync", full)
        self.assertUnusable("cannot read or make the host key", "No space left")
        self.assertEqual([], os.listdir(self.directory))
        os.fsync = real
        open(f"{self.path}.{os.getpid()}.tmp", "w").close()
        host_key(self.path)
        self.assertEqual(["key"], os.listdir(self.directory))

    def test_made_by_ssh_keygen(self):
        """It can be used, and its fingerprint is what ssh-keygen shows."""
        for number, (kind, bits, _) in enumerate(KINDS):
            for form in ([], ["-m", "PEM"]):
                path = make_key(f"{number}{len(form)}", kind, bits, *form)
                key, public = host_key(path), Key.fromFile(path + ".pub")
                self.assertEqual((False, public), (key.isPublic(), key.public()))
                shown = run_keygen("-l", "-f", path + ".pub").split()[1]
                self.assertEqual([shown] * 2, [fingerprint(k) for k in (key, public)])

    def test_others_may_read_it(self):
        host_key(self.path)
        for mode in (0o640, 0o604, 0o620, 0o644):
            os.chmod(self.path, mode)
            self.assertUnusable("can be read by others", f"{mode:04o}", "0600")
        os.chmod(self.path, 0o400)
        host_key(self.path)

    def test_wrong_key(self):
        path = make_key("pair") + ".pub"
        os.chmod(path, 0o600)
        self.assertUnusable("is a public key", path=path)
        for number, form in enumerate(([], ["-m", "PEM"])):
            path = make_key(f"{number}", "rsa", "2048", *form, passphrase="secret")
            self.assertUnusable("has a passphrase", path=path)

    def test_something_else(self):
        whole = read(host_key(self.path) and self.path)
        for text in (
            *(b"", b"\n", b"rubbish", b"\0" * 5000, os.urandom(1000), b"ssh-ed25519"),
            *(whole[:60], whole[: len(whole) // 2], whole.replace(b"AAAA", b"AAAB")),
            b"-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n",
        ):
            with open(self.path, "wb") as file:
                file.write(text)
            self.assertUnusable("is not a private key")
            self.assertEqual(text, read(self.path))

    def test_no_file(self):
        open("made", "w").close()
        self.assertUnusable("cannot read or make the host key")
        os.unlink("made")
        os.makedirs(self.path)
        self.assertUnusable("cannot read or make", "directory")
        os.rmdir(self.path)
        os.symlink("missing", self.path)
        self.assertUnusable("cannot read or make", "No such file")


class TestKeyChecker(KeyDirectoryCase):
    """Logins with real keys."""

    def setUp(self):
        super().setUp()
        self.requireFeature(ssh_keygen)
        self.checker = KeyChecker(self.keys, Clock())
        verifyObject(ICredentialsChecker, self.checker)
        self.key = self.make_key("alice")

    def make_key(self, user, kind="ed25519", bits="", options=""):
        """A private key, of which *user*'s file has the public one."""
        path = make_key(os.path.join(self.test_dir, f"{user}-key"), kind, bits)
        self.write(user, f"{options} {read(path + '.pub').decode()}")
        return Key.fromFile(path)

    def check(self, blob, user, signature, kind=b"ssh-ed25519"):
        """The result of a login: a `Login` or an exception."""
        given = SSHPrivateKey(os.fsencode(user), kind, blob, b"data", signature)
        outcome = []
        self.checker.requestAvatarId(given).addBoth(outcome.append)
        (found,) = outcome
        return getattr(found, "value", found)

    def log_in(self, key, user="alice", kind=None):
        """The same, with the signature that *key* makes."""
        kind = kind or key.sshType()
        return self.check(key.public().blob(), user, key.sign(b"data", kind), kind)

    def assertRefused(self, found):
        # ValidPublicKey is a kind of it.
        self.assertIs(UnauthorizedLogin, type(found))

    def test_every_kind(self):
        for number, (kind, bits, signatures) in enumerate(KINDS):
            user = f"user{number}"
            key = self.make_key(user, kind, bits, 'no-pty,environment="A=b"')
            expected = Login(user, fingerprint(key), {"A": "b"})
            for signature in signatures:
                for account in (user, "bzr"):
                    self.assertEqual(expected, self.log_in(key, account, signature))
                self.assertRefused(self.log_in(key, "alice", signature))

    def test_wrong_signature(self):
        blob, right = self.key.public().blob(), self.key.sign(b"data")
        self.assertIsInstance(self.check(blob, "alice", right), Login)
        wrong = [right[:n] + bytes([right[n] ^ 1]) + right[n + 1 :] for n in (20, 82)]
        wrong += [right[:-1], right[:19], b"rubbish", b"\0" * 40, b"\0" * 4]
        wrong += [self.make_key("bob").sign(b"data"), self.key.sign(b"something else")]
        for signature in wrong:
            for user in ("alice", "bzr"):
                self.assertRefused(self.check(blob, user, signature))

    def test_sha1(self):
        """A SHA-1 signature is refused under every algorithm name."""
        key = self.make_key("bob", "rsa", "2048")
        blob, weak = key.public().blob(), key.sign(b"data", b"ssh-rsa")
        for kind in (b"ssh-rsa", b"rsa-sha2-256", b"rsa-sha2-512"):
            self.assertRefused(self.check(blob, "bob", weak, kind))

    def test_without_signature(self):
        """A client may ask first whether a key would be accepted."""
        mallory = Key.fromFile(make_key("mallory"))
        for user in ("alice", "bzr", "carol"):
            self.assertRefused(self.check(mallory.public().blob(), user, None))
        for user in ("alice", "bzr"):
            found = self.check(self.key.public().blob(), user, None)
            self.assertIsInstance(found, ValidPublicKey)

    def test_no_key(self):
        """Bytes that are no public key, or no name, are refused."""
        blob, signature = self.key.public().blob(), self.key.sign(b"data")
        self.assertRefused(self.check(blob, b"\xff\xfe", signature))
        for other in (b"", b"\0", b"rubbish", blob[:-1], blob[:15], blob[:20] + b"!"):
            for each in (None, signature):
                self.assertRefused(self.check(other, "alice", each))
