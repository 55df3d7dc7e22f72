# SPDX-License-Identifier: GPL-2.0-or-later

"""What is taken in of a request: not more than there is a use for.

Breezy keeps what a client announces, up to 4 GiB at a time, before it looks at it.
Here a body that would change a read-only service is answered when the request's
arguments are known, a body that no request can need when its length is, and the
rest of it is read and forgotten: a client may send all of it before it reads an answer.
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

#: Bytes that are taken in of anything but the body of a request that writes. The
#: longest that there is a use for names each file of a tree, or each revision, in 100
#: to 130 bytes: a quarter of a million of them.
LONGEST = 32 << 20
#: Bytes of a line that says how long a body is.
_LONGEST_LENGTH = 20
#: Parts of a stream that wait to be inserted while more are read.
AHEAD = 8
#: Seconds that an insertion has to clean up after its client.
CLEANING = 10.0
# What cannot be a part of one: that its end came too early is not always seen.
_NO_STREAM = None
#: What Breezy says of verbs (``request.request_handlers``) that change something.
_WRITING = ("idem", "semi", "semivfs", "stream", "mutate")
_failure = request.FailedSmartServerResponse
_READ_ONLY = (b"ReadOnlyError",)
_TOO_LONG = (
    b"error",
    b"a request of this kind has a body of %d bytes at most" % LONGEST,
)


class Source(Protocol):
    """Where a request comes from; to read at its end raises EOFError."""

    def read_some(self, count: int) -> bytes:
        """Up to *count* bytes, at least one."""

    def read_line(self) -> bytes:
        """A line, of `LONGEST` bytes at most, with its newline."""

    def flush(self) -> None:
        """Have an answer on its way."""


def take_in(protocol: Any, source: Source, is_readonly: Callable[[], bool]) -> None:
    """Read what is missing of a request, and have it answered.

    :param protocol: of Breezy; what it has been given yet is the start of a request.
    :param is_readonly: tells whether what is served cannot be changed.
    :raises EOFError: if the client ends in its middle.
    :raises ClientError: if it cannot be understood, or holds what nobody needs.
    """
    if isinstance(protocol, ProtocolThreeDecoder):
        _take_in_message(protocol, source, is_readonly)
    else:
        _take_in_lines(protocol, source, is_readonly)


def _take_in_message(
    protocol: Any, source: Source, is_readonly: Callable[[], bool]
) -> None:
    """A request in the third version of the protocol: a message in parts."""
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
        # Nobody knows where the next request begins.
        raise ClientError("the client sent an invalid request")


def _broken(message: Any, broken: list[BaseException], error: BaseException) -> None:
    """In the place of a message handler's ``protocol_error``.

    That forgets what goes wrong in an answer, and the client waits for the rest. And
    when memory is short nobody knows how far the request was read.
    """
    if message.responder.response_sent or isinstance(error, MemoryError):
        broken.append(error)
    else:
        message.responder.send_error(error)


def _in_length(protocol: Any) -> bool:
    """Whether the length of a part is still being read."""
    between = protocol.state_accept == protocol._state_accept_expecting_message_part
    return not between and protocol._in_buffer_len < 4


def _refuse_message(message: Any, error: tuple[bytes, ...]) -> None:
    handler = message.request_handler
    # It is told of the end, and may have to clean up.
    handler._command._body_chunks = []
    handler.finished_reading = True
    message.expecting, message._response_sent = "end", True
    message.responder.send_response(_failure(error))


def _forget_rest(protocol: Any, source: Source, wanted: int) -> None:
    """Read a message that has been answered to its end."""
    source.flush()  # a client need not send all of it before it reads
    # What comes now is nobody's fault any more.
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
    """A request in the first two versions: a line, and perhaps a body."""
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
    """How many bytes the body of *command* may have."""
    if type(command) not in writing_requests():
        return LONGEST
    return 0 if is_readonly() else math.inf


@functools.lru_cache(maxsize=1)
def writing_requests() -> frozenset[type]:
    """The classes of the requests that change something."""
    verbs = request.request_handlers
    return frozenset(
        verbs.get(verb)
        for verb in verbs.keys()  # noqa: SIM118 - not a mapping
        if verbs.get_info(verb) in _WRITING
    )


class _Stream:
    """In the place of the queue by which a stream gets to the thread that inserts it.

    Breezy's takes all that comes, even when the thread has given up.
    """

    def __init__(self, thread: threading.Thread, before: queue.Queue[Any]):
        self._thread = thread
        self._queue = before
        before.maxsize = AHEAD
        self.get = before.get

    def put(self, item: Any) -> None:
        """Wait until there is room for *item*; forget it if nobody takes it."""
        while self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=0.1)
                return


def _slow_down(command: Any) -> None:
    """Have a stream read no faster than it is inserted."""
    thread = getattr(command, "insert_thread", None)
    if thread is not None and isinstance(command.queue, queue.Queue):
        command.queue = _Stream(thread, command.queue)


def _abandon(command: Any) -> None:
    """End the insertion of a stream that will not be complete.

    It takes back what it has written.
    """
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
