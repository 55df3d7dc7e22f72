# SPDX-License-Identifier: GPL-2.0-or-later

"""The scoreboard: what each worker is doing, in memory that the service reads.

It has a slot for each worker, a page of its own, which the worker writes without a
system call. A worker inherits its slot and no other, so that it can lie about its own
connection alone. The service reads a slot while the worker serves, and once more when
it has ended, however it has ended.

A slot begins with numbers, each of them written at once. The texts are guarded by a
sequence number, which is odd while they are written (a seqlock): the reader tries
again. A worker that was killed in the middle leaves it odd for ever, and one that was
taken over writes what it likes. So a reader takes what is there after a few tries, and
believes nothing of it: each text has a bound and is made printable.

Offsets in bytes; numbers are of 8 bytes in the order of this machine:

    0     of the worker: its serial number of the pool; 0 before it has a connection
    8     sequence number
    16    state: an index of `STATES`
    24    requests so far
    32    bytes that were read from the client
    40    bytes that were written to it
    48    when the first of them was, in ns of the monotonic clock; 0: not yet
    56    how many of the verbs below there are, and 256 times the repositories
    64    verb of the request, 64 bytes with its length in the first
    128   path that it names, 256 bytes likewise
    384   32 verbs with their counts: 8 bytes for the count, 56 as above
    2432  6 repositories: 256 bytes each as above
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

#: Bytes of a slot: a page. Where pages are larger, workers share some.
SIZE = 4096
#: Slots of a board; further workers have none.
SLOTS = 4096

STATES = STARTING, BUSY, IDLE = ("starting", "busy", "idle")
#: What stands for verbs that have no place of their own, and for those that there are
#: none of.
OTHER = "other"

#: Indexes of `Slot.numbers`: the state, bytes in and out, and when the first went out.
STATE, BYTES_IN, BYTES_OUT, FIRST_BYTE = 2, 4, 5, 6
#: The state of a worker that waits for its client.
WAITING = 2
_SERIAL, _SEQUENCE, _REQUESTS, _FILLED = 0, 1, 3, 7
_VERB, _PATH, _VERBS, _REPOSITORIES = 64, 128, 384, 2432
_MOST_VERBS, _MOST_REPOSITORIES = 32, 6
_EACH_VERB, _EACH_REPOSITORY = 64, 256
#: Times that a reader looks for a moment at which nobody writes.
_TRIES = 8

# In the native order: only so a number is written at once.
_number = struct.Struct("Q")
_head = struct.Struct("8Q")
_request = struct.Struct("64p256p")
_counted = struct.Struct("Q56p")
_path = struct.Struct("256p")


class Slot:
    """The slot of this worker; in other processes, bytes that nobody reads.

    What is counted for each read and write is done in place, at `numbers`: a method
    would be one more thing of which each worker makes a copy by using it.

    :param view: the bytes of the slot, as a page.
    :ivar serial: of the worker; 0 for other processes.
    :ivar numbers: the same bytes as numbers, to be indexed by `STATE`...
    """

    __slots__ = ("_paths", "_sequence", "_verbs", "_view", "numbers", "serial")

    def __init__(self, view: memoryview, serial: int = 0):
        self.numbers = view.cast("Q")
        self._view = view
        self.serial = serial
        self._sequence = 0
        # By verb: where its count is, as an index of `numbers`.
        self._verbs: dict[bytes, int] = {}
        self._paths: set[bytes] = set()

    def begin(self) -> None:
        """Begin a connection: forget what was written, in practice too."""
        self._sequence = 0
        self._verbs, self._paths = {}, set()
        self._view[:] = bytes(SIZE)
        self.numbers[_SERIAL] = self.serial

    def request(self, verb: bytes, path: bytes | None) -> None:
        """Begin a request.

        :param path: what it is about, as the client has written it; None: nothing.
        """
        numbers = self.numbers
        numbers[_SEQUENCE] = self._sequence + 1
        _request.pack_into(self._view, _VERB, verb, path or b"")
        index = self._verbs.get(verb)
        if index is None:
            index = self._add_verb(verb)
        numbers[index] += 1
        if path is not None and path not in self._paths:
            self._add_path(path)
        numbers[_REQUESTS] += 1
        numbers[STATE] = 1
        self._sequence += 2
        numbers[_SEQUENCE] = self._sequence

    def _add_verb(self, verb: bytes) -> int:
        number = len(self._verbs)
        if number >= _MOST_VERBS - 1:
            number, verb = _MOST_VERBS - 1, OTHER.encode()
        if verb not in self._verbs:
            offset = _VERBS + number * _EACH_VERB
            _counted.pack_into(self._view, offset, 0, verb)
            self._verbs[verb] = offset // _number.size
            self.numbers[_FILLED] += 1
        return self._verbs[verb]

    def _add_path(self, path: bytes) -> None:
        number = len(self._paths)
        if number < _MOST_REPOSITORIES:
            offset = _REPOSITORIES + number * _EACH_REPOSITORY
            _path.pack_into(self._view, offset, path)
            self._paths.add(path)
            self.numbers[_FILLED] += 256


def unread() -> Slot:
    """A slot that nobody reads."""
    return Slot(memoryview(bytearray(SIZE)))


#: That of this process.
current = unread()


def use(slot: Slot) -> None:
    """Have `current` be *slot*."""
    global current
    current = slot


@dataclass
class Entry:
    """What a slot says; a worker without one has said nothing.

    :ivar state: one of `STATES`.
    :ivar verb, repository: of the last request; "" if there was none.
    :ivar verbs: how many requests there were of each.
    :ivar repositories: the first few that requests have named.
    """

    state: str = STARTING
    verb: str = ""
    repository: str = ""
    requests: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    verbs: dict[str, int] = field(default_factory=dict)
    repositories: list[str] = field(default_factory=list)


def take_snapshot(view: Any, serial: int) -> bytes:
    """What is in a slot, for `decode`; b"" if another worker has written it.

    :param view: the bytes of the slot, which may change any time.
    :param serial: of the worker whose it is.
    """
    data = b""
    for _ in range(_TRIES):
        data = bytes(view[:SIZE])
        sequence = _number.unpack_from(data, _SEQUENCE * _number.size)[0]
        after = _number.unpack_from(view, _SEQUENCE * _number.size)[0]
        if sequence == after and not sequence % 2:
            break
    head = _head.unpack_from(data)
    if head[_SERIAL] != serial:
        return b""
    verbs, paths = _filled(head[_FILLED])
    return data[:verbs] + data[_REPOSITORIES:paths]


def _filled(number: int) -> tuple[int, int]:
    """Where the verbs and the repositories of a slot end."""
    verbs, paths = min(number & 255, _MOST_VERBS), number >> 8
    end = _REPOSITORIES + min(paths, _MOST_REPOSITORIES) * _EACH_REPOSITORY
    return _VERBS + verbs * _EACH_VERB, end


def first_byte_of(snapshot: bytes) -> float | None:
    """When the first byte was written, in seconds of `time.monotonic`, or None."""
    if not snapshot:
        return None
    found = _number.unpack_from(snapshot, FIRST_BYTE * _number.size)[0]
    return found / 1e9 if found else None


def decode(snapshot: bytes) -> Entry:
    """What is in a snapshot; b"" says nothing."""
    if not snapshot:
        return Entry()
    _, _, state, requests, taken, given, _, number = _head.unpack_from(snapshot)
    verb, path = _request.unpack_from(snapshot, _VERB)
    end = _filled(number)[0]
    verbs: dict[str, int] = {}
    for count, name in _counted.iter_unpack(snapshot[_VERBS:end]):
        if count:
            shown = _shown(name)
            verbs[shown] = verbs.get(shown, 0) + count
    return Entry(
        STATES[state] if state < len(STATES) else BUSY,
        _shown(verb),
        _shown_path(path),
        requests,
        taken,
        given,
        verbs,
        [_shown_path(each) for (each,) in _path.iter_unpack(snapshot[end:]) if each],
    )


def _shown(data: bytes) -> str:
    return printable(data.decode("utf-8", "replace"))


def _shown_path(data: bytes) -> str:
    """A path as it is below the served directory: "/" for that itself."""
    if not data:
        return ""
    return "/" + _shown(data).strip("/")


def printable(text: str) -> str:
    """*text* with what could end its line, or move a cursor, replaced."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else "\ufffd" for each in text)
