# SPDX-License-Identifier: GPL-2.0-or-later

"""Requests of the smart protocol made by hand, and served in this process."""

from __future__ import annotations

import contextlib
import os
import struct
import traceback
from typing import Any, NamedTuple

from breezy.bzr.smart import protocol
from breezy.tests import TestCaseWithTransport
from fastbencode import bdecode, bencode

from ...lpserve.serving.smartserver import ConnectionServer

#: Formats of requests.
FORMATS = (1, 2, 3)


class Request(NamedTuple):
    """A request.

    :ivar body: bytes; a list of them for a stream; None: there is none.
    """

    words: tuple[Any, ...]
    body: Any = None

    def encode(self, format: int) -> bytes:
        """The bytes of it in a format of `FORMATS`."""
        if format == 3:
            parts = [protocol.MESSAGE_VERSION_THREE, _prefixed(bencode({}))]
            parts += [b"s", _prefixed(bencode(list(self.words)))]
            chunks = self.body if isinstance(self.body, list) else [self.body]
            parts += [b"b" + _prefixed(each) for each in chunks if each is not None]
            return b"".join([*parts, b"e"])
        words = (w if isinstance(w, bytes) else bencode(w) for w in self.words)
        line = b"\x01".join(words) + b"\n"
        body = b"".join(self.body) if isinstance(self.body, list) else self.body
        if body is not None:
            line += b"%d\n%sdone\n" % (len(body), body)
        return (protocol.REQUEST_VERSION_TWO if format == 2 else b"") + line


class Answer(NamedTuple):
    """An answer; in the first format only its bytes tell a good one from an error.

    :ivar words: of the answer, and of an error that came in the middle of it.
    """

    good: bool
    words: list[Any]
    rest: bytes


def _prefixed(data: bytes) -> bytes:
    return struct.pack("!L", len(data)) + data


def decode(data: bytes, format: int) -> Answer:
    """The answer in *data*.

    :raises ValueError: if it is none, or not all of one.
    """
    if format == 1:
        line, end, rest = data.partition(b"\n")
        _expect(bool(end), data)
        return Answer(True, line.split(b"\x01"), rest)
    if format == 2:
        _expect(data.startswith(protocol.RESPONSE_VERSION_TWO), data)
        data = data[len(protocol.RESPONSE_VERSION_TWO) :]
        status, _, data = data.partition(b"\n")
        line, end, rest = data.partition(b"\n")
        _expect(status in (b"success", b"failed") and bool(end), data)
        return Answer(status == b"success", line.split(b"\x01"), rest)
    _expect(data.startswith(protocol.MESSAGE_VERSION_THREE), data)
    rest = data[len(protocol.MESSAGE_VERSION_THREE) :]
    _, rest = _cut(rest)
    good, words, bodies = True, [], b""
    while rest[:1] != b"e":
        kind, rest = rest[:1], rest[1:]
        if kind == b"o":
            good, rest = good and rest[:1] != b"E", rest[1:]
        elif kind == b"s":
            found, rest = _cut(rest)
            words += bdecode(found)
        else:
            _expect(kind == b"b", data)
            found, rest = _cut(rest)
            bodies += found
    return Answer(good, words, bodies)


def _cut(data: bytes) -> tuple[bytes, bytes]:
    _expect(len(data) >= 4, data)
    end = 4 + struct.unpack("!L", data[:4])[0]
    _expect(len(data) >= end, data)
    return data[4:end], data[end:]


def _expect(condition: bool, data: bytes) -> None:
    if not condition:
        raise ValueError(f"no answer: {data!r}")


class SmartTestCase(TestCaseWithTransport):
    """Serves requests in this process.

    :ivar error: what the last connection ended with, if that was an error.
    """

    error: Exception | None = None

    def setUp(self):
        super().setUp()
        # What is wrong with thousands of requests takes long to write down.
        self.overrideAttr(traceback, "format_exc", str)

    def make_server(self, root: str, allow_writes: bool) -> ConnectionServer:
        """A server of *root*, below the directory of the test."""
        made = ConnectionServer(os.path.join(self.test_dir, root), allow_writes)
        self.addCleanup(made.tear_down)
        # Breezy's tests open nothing else.
        self.permit_url(made.transport.base)
        return made

    def ask(self, server: ConnectionServer, request: Request, format: int) -> Answer:
        """The answer to *request*, alone on its connection.

        :raises ValueError: if there is none.
        """
        return decode(self.exchange(server, request.encode(format)), format)

    def exchange(self, server: ConnectionServer, data: bytes) -> bytes:
        """What is answered on a connection that sends *data* and ends."""
        self.error = None
        with contextlib.ExitStack() as stack:
            files = []
            for name in ("requests", "answers"):
                files.append(os.memfd_create(name))
                stack.callback(os.close, files[-1])
            os.write(files[0], data)
            os.lseek(files[0], 0, os.SEEK_SET)
            try:
                server.serve(files[0], files[1], 10.0, 10.0)
            except Exception as error:
                self.error = error
            size = os.lseek(files[1], 0, os.SEEK_CUR)
            return os.pread(files[1], size, 0)
