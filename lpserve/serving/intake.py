# SPDX-License-Identifier: GPL-2.0-or-later

"""Reads the body of a request, with limits on its size.

Breezy buffers what a client announces, up to 4 GiB, before it handles a request. Here a
request to write to a read-only service is refused before its body is read, and a body
that is too long as soon as its length is known. The rest of a refused body is read and
discarded, because a client may send all of it before it reads the answer.
"""

from __future__ import annotations

import contextlib
import functools
import math
import queue
import struct
import threading
from collections.abc import Callable
from typing import Any, Protocol

from breezy.bzr.smart import request
from breezy.bzr.smart.protocol import ProtocolThreeDecoder

from ..errors import ClientError

#: The most bytes of a request, except the body of one that writes. The longest bodies
#: name each file of a tree, or each revision, in 100 to 130 bytes; so this is enough
#: for a quarter of a million of them.
LONGEST = 32 << 20
#: The most bytes of a line with the length of a body.
_LONGEST_LENGTH = 20
#: How many parts of a stream are read before they are inserted.
AHEAD = 8
#: Seconds that an insertion has to clean up after its client has gone.
CLEANING = 10.0
# An invalid part of a stream, which makes its insertion fail: Breezy may take the mere
# end of an incomplete stream for success.
_NO_STREAM = None
#: The kinds of verbs (``request.request_handlers``) that change something.
_WRITING = ("idem", "semi", "semivfs", "stream", "mutate")
_failure = request.FailedSmartServerResponse
_READ_ONLY = (b"ReadOnlyError",)
_TOO_LONG = (
    b"error",
    b"a request of this kind has a body of %d bytes at most" % LONGEST,
)


class Source(Protocol):
    """The input of `take_in`; reading at the end of file raises EOFError."""

    def read_some(self, count: int) -> bytes:
        """Read at least one byte, and up to *count*."""

    def read_line(self) -> bytes:
        """Read a line of at most `LONGEST` bytes, including its newline."""

    def flush(self) -> None:
        """Write the buffered answer."""


def take_in(protocol: Any, source: Source, is_readonly: Callable[[], bool]) -> None:
    """Read the rest of a request, and have it answered.

    :param protocol: a protocol object of Breezy, which has the start of a request.
    :param is_readonly: returns whether the service is read-only.
    :raises EOFError: if the client closes within the request.
    :raises ClientError: if the request is invalid, or has too long arguments.
    """
    if isinstance(protocol, ProtocolThreeDecoder):
        _take_in_message(protocol, source, is_readonly)
    else:
        _take_in_lines(protocol, source, is_readonly)


def _take_in_message(
    protocol: Any, source: Source, is_readonly: Callable[[], bool]
) -> None:
    """Read a request of protocol version three: a message in parts."""
    message = protocol.message_handler
    try:
        _take_in_parts(protocol, message, source, is_readonly)
    except BaseException:
        _abandon(message.request_handler._command)
        raise


def _take_in_parts(
    protocol: Any, message: Any, source: Source, is_readonly: Callable[[], bool]
) -> None:
    broken: list[BaseException] = []
    message.protocol_error = functools.partial(_broken, message, broken)
    taken, room = 0, -1.0
    while (wanted := protocol.next_read_size()) and not broken:
        if message.responder.response_sent:
            _forget_rest(protocol, source, wanted)
            return
        if message.expecting == "args":
            if wanted > LONGEST:
                raise ClientError(f"the client announces {wanted} bytes of arguments")
        elif room < 0:
            command = message.request_handler._command
            room = _room(command, is_readonly)
            _slow_down(command)
        if room >= 0 and taken + wanted > room and not _in_length(protocol):
            _refuse_message(message, _TOO_LONG if room else _READ_ONLY)
            continue
        data = source.read_some(wanted)
        if room >= 0:
            taken += len(data)
        protocol.accept_bytes(data)
    if broken:
        raise broken[0]
    if protocol.decoding_failed:
        # The start of the next request is not known.
        raise ClientError("the client sent an invalid request")


def _broken(message: Any, broken: list[BaseException], error: BaseException) -> None:
    """Replaces ``protocol_error`` of a message handler of Breezy.

    Breezy ignores an error that occurs while it sends an answer, and the client waits
    for the rest. After a MemoryError, it is not known how far the request was read.
    """
    if message.responder.response_sent or isinstance(error, MemoryError):
        broken.append(error)
    else:
        message.responder.send_error(error)


def _in_length(protocol: Any) -> bool:
    """Whether the length of a part has not been read completely."""
    between = protocol.state_accept == protocol._state_accept_expecting_message_part
    return not between and protocol._in_buffer_len < 4


def _refuse_message(message: Any, error: tuple[bytes, ...]) -> None:
    handler = message.request_handler
    # The end of the message is still passed to it, for its cleanup.
    handler._command._body_chunks = []
    handler.finished_reading = True
    message.expecting, message._response_sent = "end", True
    message.responder.send_response(_failure(error))


def _forget_rest(protocol: Any, source: Source, wanted: int) -> None:
    """Discard the rest of a message that has been answered."""
    source.flush()  # the client may wait for the answer before it sends the rest
    # Errors in the rest have no effect.
    protocol.message_handler.request_handler.finished_reading = True
    if protocol.state_accept != protocol._state_accept_expecting_message_part:
        protocol._set_in_buffer(None)
        _skip(source, wanted)
        protocol.state_accept = protocol._state_accept_expecting_message_part
    while True:
        kind = source.read_some(1)
        if kind == b"o":
            _skip(source, 1)
        elif kind in (b"b", b"s"):
            _skip(source, struct.unpack("!L", _read(source, 4))[0])
        elif kind == b"e":
            protocol.accept_bytes(kind)
            return
        else:
            raise ClientError("the client sent an invalid request")


def _take_in_lines(
    protocol: Any, source: Source, is_readonly: Callable[[], bool]
) -> None:
    """Read a request of protocol version one or two: a line, and perhaps a body."""
    if not protocol._has_dispatched:
        protocol.accept_bytes(source.read_line())
    if not protocol.next_read_size():
        return
    line = source.read_line()
    if not line.strip().isdigit() or len(line) > _LONGEST_LENGTH:
        raise ClientError("the client sent an invalid request")
    length, room = int(line), _room(protocol.request._command, is_readonly)
    if length > room:
        _skip(source, length + len(b"done\n"))
        error = _TOO_LONG if room else _READ_ONLY
        protocol._send_response(_failure(error))
        return
    protocol.accept_bytes(line)
    while wanted := protocol.next_read_size():
        protocol.accept_bytes(source.read_some(wanted))


def _room(command: Any, is_readonly: Callable[[], bool]) -> float:
    """The most bytes of the body of *command*; 0: none because it is refused."""
    if type(command) not in writing_requests():
        return LONGEST
    return 0 if is_readonly() else math.inf


@functools.lru_cache(maxsize=1)
def writing_requests() -> frozenset[type]:
    """The classes of requests that change something."""
    verbs = request.request_handlers
    return frozenset(
        verbs.get(verb)
        for verb in verbs.keys()  # noqa: SIM118 - not a mapping
        if verbs.get_info(verb) in _WRITING
    )


class _Stream:
    """Replaces the queue of the thread that inserts a stream, with a limit.

    Breezy's queue grows without limit, even when the thread has ended.
    """

    def __init__(self, thread: threading.Thread, before: queue.Queue[Any]):
        self._thread = thread
        self._queue = before
        before.maxsize = AHEAD
        self.get = before.get

    def put(self, item: Any) -> None:
        """Wait for room and add *item*; drop it if the thread has ended."""
        while self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=0.1)
                return


def _slow_down(command: Any) -> None:
    """Read a stream no faster than it is inserted."""
    thread = getattr(command, "insert_thread", None)
    if thread is not None and isinstance(command.queue, queue.Queue):
        command.queue = _Stream(thread, command.queue)


def _abandon(command: Any) -> None:
    """Make the insertion of an incomplete stream fail, and wait for its cleanup."""
    thread = getattr(command, "insert_thread", None)
    if thread is not None:
        command.queue.put(_NO_STREAM)
        thread.join(CLEANING)


def _skip(source: Source, count: int) -> None:
    while count > 0:
        count -= len(source.read_some(count))


def _read(source: Source, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += source.read_some(count - len(data))
    return data
