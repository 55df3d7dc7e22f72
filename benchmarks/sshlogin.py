# SPDX-License-Identifier: GPL-2.0-or-later

"""A client of SSH that only logs in, and costs little, so that servers can be measured.

It knows one algorithm of each kind and checks nothing of what the server sends. A login
takes it a tenth of the CPU time that ``ssh`` takes.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import struct

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from stage import BenchmarkError

_VERSION = b"SSH-2.0-benchmark"
#: Numbers of messages (:rfc:`4250`, section 4.1).
_SERVICE_REQUEST, _KEXINIT, _NEWKEYS, _INIT, _REPLY = 5, 20, 21, 30, 31
_USERAUTH_REQUEST, _SUCCESS = 50, 52
_MAC_LENGTH = 32


def _string(data: bytes) -> bytes:
    return struct.pack("!I", len(data)) + data


def _positive(data: bytes) -> bytes:
    """*data* as a positive "mpint" (:rfc:`4251`, section 5)."""
    data = data.lstrip(b"\0")
    return _string(b"\0" + data if data[0] & 0x80 else data)


def _packet(payload: bytes, block: int) -> bytes:
    padding = block - (len(payload) + 5) % block
    padding += block if padding < 4 else 0
    head = struct.pack("!IB", len(payload) + padding + 1, padding)
    return head + payload + bytes(padding)


_NAMES = (
    *(b"curve25519-sha256", b"ssh-ed25519", b"aes128-ctr", b"aes128-ctr"),
    *(b"hmac-sha2-256", b"hmac-sha2-256", b"none", b"none", b"", b""),
)
_OURS = bytes([_KEXINIT]) + bytes(16) + b"".join(map(_string, _NAMES)) + bytes(5)


class Key:
    """A user's key.

    :param path: of an ed25519 key.
    """

    def __init__(self, path: str):
        with open(path, "rb") as file:
            found = load_ssh_private_key(file.read(), None)
        if not isinstance(found, Ed25519PrivateKey):
            raise BenchmarkError(f"{path} is no ed25519 key")
        self.private = found
        public = found.public_key().public_bytes_raw()
        self.blob = _string(b"ssh-ed25519") + _string(public)


class Login:
    """A login; call `hear` whenever `sock` is readable, until it returns true."""

    def __init__(self, port: int, user: str, key: Key):
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._user, self._key = user.encode(), key
        self._data = self._server = b""
        self._steps = self._run()
        next(self._steps)
        self._private = X25519PrivateKey.generate()
        self._public = self._private.public_key().public_bytes_raw()
        # What the server does not wait for goes at once.
        init = bytes([_INIT]) + _string(self._public)
        self.sock.sendall(_VERSION + b"\r\n" + _packet(_OURS, 8) + _packet(init, 8))

    def hear(self) -> bool:
        """Read what is there; whether it has logged in."""
        data = self.sock.recv(65536)
        if not data:
            raise BenchmarkError("the server has closed a connection")
        self._data += data
        try:
            self._steps.send(None)
        except StopIteration:
            return True
        return False

    def _run(self):  # type: ignore[no-untyped-def]
        """The steps of a login; each waits for more data."""
        while b"\n" not in self._data:
            yield
        line, _, self._data = self._data.partition(b"\n")
        version = line.rstrip(b"\r")
        theirs = yield from self._plain(_KEXINIT)
        reply = yield from self._plain(_REPLY)
        host_key, ephemeral = _strings(reply[1:], 2)
        shared = _positive(
            self._private.exchange(X25519PublicKey.from_public_bytes(ephemeral))
        )
        parts = (_VERSION, version, _OURS, theirs, host_key, self._public, ephemeral)
        session = hashlib.sha256(b"".join(map(_string, parts)) + shared).digest()

        def derive(letter: bytes) -> bytes:
            return hashlib.sha256(shared + session + letter + session).digest()

        writer = _aes(derive(b"C"), derive(b"A")).encryptor()
        mac, sequence = derive(b"E"), 3
        message = _packet(bytes([_NEWKEYS]), 8)
        for payload in self._asked(session):
            data = _packet(payload, 16)
            number = struct.pack("!I", sequence)
            message += writer.update(data) + hmac.digest(mac, number + data, "sha256")
            sequence += 1
        self.sock.sendall(message)
        yield from self._plain(_NEWKEYS)
        reader = _aes(derive(b"D"), derive(b"B")).decryptor()
        while True:
            while len(self._data) < 16:
                yield
            first = reader.update(self._data[:16])
            length = struct.unpack("!I", first[:4])[0] + 4
            while len(self._data) < length + _MAC_LENGTH:
                yield
            reader.update(self._data[16:length])
            self._data = self._data[length + _MAC_LENGTH :]
            if first[5] == _SUCCESS:
                return
            if first[5] > _SUCCESS or first[5] == 1:
                raise BenchmarkError(f"no login: message {first[5]}")

    def _asked(self, session: bytes) -> list[bytes]:
        """What is asked for: the service, and the login."""
        ask = bytes([_USERAUTH_REQUEST]) + b"".join(
            map(_string, (self._user, b"ssh-connection", b"publickey"))
        )
        ask += b"\1" + _string(b"ssh-ed25519") + _string(self._key.blob)
        signature = self._key.private.sign(_string(session) + ask)
        signed = _string(_string(b"ssh-ed25519") + _string(signature))
        return [bytes([_SERVICE_REQUEST]) + _string(b"ssh-userauth"), ask + signed]

    def _plain(self, number: int):  # type: ignore[no-untyped-def]
        """Wait for a packet that is not encrypted; its payload."""
        while len(self._data) < 4:
            yield
        length = struct.unpack("!I", self._data[:4])[0] + 4
        while len(self._data) < length:
            yield
        payload = self._data[5 : length - self._data[4]]
        self._data = self._data[length:]
        if payload[0] != number:
            raise BenchmarkError(f"message {payload[0]} and not {number}")
        return payload


def _strings(data: bytes, count: int) -> list[bytes]:
    found = []
    for _ in range(count):
        length = struct.unpack("!I", data[:4])[0] + 4
        found.append(data[4:length])
        data = data[length:]
    return found


def _aes(key: bytes, counter: bytes) -> Cipher[modes.CTR]:
    return Cipher(algorithms.AES(key[:16]), modes.CTR(counter[:16]))
