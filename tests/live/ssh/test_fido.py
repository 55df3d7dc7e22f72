# SPDX-License-Identifier: GPL-2.0-or-later

"""Logins to 'brz lp-serve-ssh' with FIDO keys; the tests sign in place of a token."""

import base64
import hashlib
import os
import struct

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from .logincase import LoginCase, string

APPLICATION = b"ssh:"
PRESENT, VERIFIED = 0x01, 0x04


def mpint(number):
    """*number* as a string of the protocol (:rfc:`4251`, section 5)."""
    return string(number.to_bytes(number.bit_length() // 8 + 1, "big"))


class Ed25519Token:
    """A key as OpenSSH's PROTOCOL.u2f describes it."""

    kind = b"sk-ssh-ed25519@openssh.com"

    def __init__(self):
        self._key = ed25519.Ed25519PrivateKey.generate()
        public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.blob = string(self.kind) + string(public) + string(APPLICATION)

    def _sign(self, data):
        return self._key.sign(data)

    def sign(self, data, flags, counter=7):
        """A signature of *data* with these flags."""
        trailer = struct.pack(">BL", flags, counter)
        digests = [hashlib.sha256(each).digest() for each in (APPLICATION, data)]
        signed = self._sign(digests[0] + trailer + digests[1])
        return string(self.kind) + string(signed) + trailer


class EcdsaToken(Ed25519Token):
    kind = b"sk-ecdsa-sha2-nistp256@openssh.com"

    def __init__(self):
        self._key = ec.generate_private_key(ec.SECP256R1())
        form = Encoding.X962, PublicFormat.UncompressedPoint
        public = self._key.public_key().public_bytes(*form)
        parts = self.kind, b"nistp256", public, APPLICATION
        self.blob = b"".join(map(string, parts))

    def _sign(self, data):
        signed = self._key.sign(data, ec.ECDSA(hashes.SHA256()))
        return b"".join(map(mpint, decode_dss_signature(signed)))


class TestFido(LoginCase):
    """FAULT 41: the flags "present" and "verified" of a signature are checked."""

    def setUp(self):
        super().setUp()
        self.start_server()

    def allow(self, token, options=""):
        """Let alice in with *token* alone."""
        kind, blob = token.kind.decode(), base64.b64encode(token.blob).decode()
        self.server.write(
            os.path.join(self.server.keys, "alice"),
            f"{options} {kind} {blob}".lstrip() + "\n",
            0o644,
        )

    def logs_in(self, token, flags, change=lambda signature: signature):
        """Whether a signature with *flags*, changed by *change*, logs in."""
        transport = self.open_transport()
        fields = (b"alice", b"ssh-connection", b"publickey")
        data = string(transport.session_id) + b"\x32"
        data += b"".join(map(string, fields)) + b"\1"
        data += string(token.kind) + string(token.blob)
        signature = change(token.sign(data, flags))
        asked = (True, token.kind, token.blob, signature)
        try:
            self.authenticate(transport, "alice", "publickey", *asked)
        except self.paramiko.AuthenticationException:
            return False
        self.assertRefuses(transport)
        return True

    def check(self, token):
        for options, accepted in (
            ("", {PRESENT, PRESENT | VERIFIED}),
            ("no-touch-required", {0, PRESENT, VERIFIED, PRESENT | VERIFIED}),
            ("verify-required", {PRESENT | VERIFIED}),
            ("verify-required,No-Touch-Required", {VERIFIED, PRESENT | VERIFIED}),
        ):
            self.allow(token, options)
            for flags in (0, PRESENT, VERIFIED, PRESENT | VERIFIED):
                found = self.logs_in(token, flags)
                self.assertEqual(flags in accepted, found, f"{options} {flags}")

    def test_ed25519(self):
        self.check(Ed25519Token())

    def test_ecdsa(self):
        self.check(EcdsaToken())

    def test_forged(self):
        """The flags are part of what is signed, and nothing comes after them."""
        token = Ed25519Token()
        self.allow(token)
        self.assertTrue(self.logs_in(token, PRESENT))
        for change in (
            lambda signature: signature[:-5] + b"\1" + signature[-4:],
            lambda signature: signature + b"\1\0\0\0\7",
            lambda signature: signature[:-5],
            lambda signature: signature[:-1],
        ):
            self.assertFalse(self.logs_in(token, 0, change))
        # Another counter is another signature.
        change = lambda signature: signature[:-1] + b"\x08"  # noqa: E731
        self.assertFalse(self.logs_in(token, PRESENT, change))
