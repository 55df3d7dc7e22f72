# SPDX-License-Identifier: GPL-2.0-or-later

"""Parses requests and encodes answers of the control protocol; does no I/O.

``doc/protocol.txt`` has the grammar. A request is one line of UTF-8 of at most
`MAX_REQUEST` bytes; it is split into words as a POSIX shell does.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field

#: Longest request in bytes, its newline included. Linux' PIPE_BUF: a write of
#: this many bytes to a FIFO is atomic (pipe(7)).
MAX_REQUEST = 4096

#: The verbs that only root and the service's own user may use.
OWNER_VERBS = (
    *("reopen", "drain", "resume", "access", "upgrade"),
    *("connections", "history", "end", "metrics", "streams"),
)
VERBS = ("hello", "spawn", "status", "reload", "shutdown", *OWNER_VERBS)

BAD_REQUEST = "bad-request"
DENIED = "denied"
BUSY = "busy"
STOPPING = "stopping"
DRAINING = "draining"
FAILED = "failed"
#: Of the ``error`` answer.
ERROR_CODES = (BAD_REQUEST, DENIED, BUSY, STOPPING, DRAINING, FAILED)

USER_PATTERN = r"[A-Za-z0-9_~][A-Za-z0-9._@+~-]{0,63}"
REPLY_PATTERN = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}"

_user = re.compile(USER_PATTERN)
_reply = re.compile(REPLY_PATTERN)
_key = re.compile(r"(reply|env\.([A-Za-z_][A-Za-z0-9_]*))=(.*)", re.DOTALL)
_looks_like_key = re.compile(r"[A-Za-z_.][A-Za-z0-9_.]*=")
_number = re.compile("[0-9]{1,9}")
_quoting = re.compile(r"[\"'\\]")
_blank = re.compile(r"[ \t\r]+")
_find_reply = re.compile(
    rb"(?:^|[ \t])reply=(" + REPLY_PATTERN.encode() + rb")(?=[ \t\r]|$)"
)
# Of others it is not looked for: "end" ends many a word.
_find_verb = re.compile(
    "|".join(each for each in VERBS if each not in OWNER_VERBS).encode()
)
_before_values = re.compile(rb"[^='\"\\]*")

#: Beside those verbs that `_checked` names: what one word may follow.
_WITH_A_WORD = (("shutdown", "now"), ("streams", "drop"))


class RequestError(Exception):
    """A request that is refused.

    :ivar code: one of `ERROR_CODES`.
    :ivar text: one line for a person.
    :ivar reply: name of the reply FIFO for the error, or None if none was found.
    """

    def __init__(self, code: str, text: str, reply: str | None = None):
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text
        self.reply = reply


@dataclass(frozen=True)
class Request:
    """One valid request.

    :ivar verb: one of `VERBS`.
    :ivar words: the positional words: USER of ``spawn``, ``now`` of ``shutdown``, those
        of the message of ``drain``, USER and PATH of ``access``...
    :ivar env: the ``env.NAME=VALUE`` words, unchecked against any list.
    :ivar reply: name of the reply FIFO, or None.
    """

    verb: str
    words: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    reply: str | None = None


def split(text: str) -> list[str]:
    """Split *text* into words as a POSIX shell does.

    :raises ValueError: if a quotation is not closed.
    """
    if _quoting.search(text) is None:
        # The same as shlex, fifty times faster; nearly every request.
        return [word for word in _blank.split(text) if word]
    return shlex.split(text)


def is_user(text: str) -> bool:
    """Whether *text* can be a USER."""
    return _user.fullmatch(text) is not None


def is_reply_name(text: str) -> bool:
    """Whether *text* can name a reply FIFO."""
    return _reply.fullmatch(text) is not None


def parse_request(line: bytes) -> Request:
    """Parse one line, given without its newline.

    :raises RequestError: with code ``bad-request``; its ``reply`` is the reply
        FIFO that the line names, if one can be found in it.
    """
    try:
        return _parse(line)
    except RequestError as error:
        found = _find_reply.findall(line)
        if found:
            error.reply = found[-1].decode("ascii")
        raise


def _bad(text: str) -> RequestError:
    return RequestError(BAD_REQUEST, text)


def _parse(line: bytes) -> Request:
    if len(line) >= MAX_REQUEST:
        raise _bad(f"a request is at most {MAX_REQUEST} bytes with its newline")
    if b"\0" in line:
        raise _bad("a request cannot contain a NUL byte")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _bad(f"not UTF-8 (byte {error.start + 1})") from None
    try:
        words = split(text)
    except ValueError as error:
        raise _bad(f"cannot be split into words: {str(error).lower()}") from None
    if not words or words[0] not in VERBS:
        shown = shlex.quote(words[0][:40]) if words else "an empty line"
        raise _bad(f"unknown verb {shown}; expected one of {', '.join(VERBS)}")
    positional, env, reply = _arguments(words[1:])
    return _checked(Request(words[0], positional, env, reply))


def _arguments(words: list[str]) -> tuple[tuple[str, ...], dict[str, str], str | None]:
    positional: list[str] = []
    env: dict[str, str] = {}
    reply: str | None = None
    keys: set[str] = set()
    for word in words:
        match = _key.fullmatch(word)
        if match is None:
            if _looks_like_key.match(word):
                raise _bad(f"unknown key {shlex.quote(word.split('=')[0][:40])}")
            if keys:
                raise _bad("positional words come before key=value words")
            positional.append(word)
            continue
        key, name, value = match.groups()
        if key in keys:
            raise _bad(f"{key} is given twice")
        keys.add(key)
        if name is not None:
            env[name] = value
        elif is_reply_name(value):
            reply = value
        else:
            raise _bad(f"reply must match {REPLY_PATTERN}")
    return tuple(positional), env, reply


def _checked(request: Request) -> Request:
    words = request.words
    if request.verb == "spawn":
        if len(words) != 1:
            raise _bad(f"spawn takes one USER, not {len(words)}")
        if not is_user(words[0]):
            raise _bad(f"USER must match {USER_PATTERN}")
        return request
    verb = request.verb
    if request.env:
        raise _bad(f"{verb} takes no env")
    if verb == "access":
        if len(words) != 2:
            raise _bad(f"access takes USER and PATH, not {len(words)} words")
        if not is_user(words[0]):
            raise _bad(f"USER must match {USER_PATTERN}")
    elif verb == "end":
        if not words or len(words) > 2 or words[1:] not in ((), ("now",)):
            raise _bad("end takes a PID or a USER, and perhaps now")
        if not is_user(words[0]):
            raise _bad(f"USER must match {USER_PATTERN}")
    elif verb == "history" and len(words) == 1:
        if not _number.fullmatch(words[0]):
            raise _bad("history takes a number")
    elif words and verb != "drain" and (verb, *words) not in _WITH_A_WORD:
        raise _bad(f"{verb} does not take {shlex.quote(words[0][:40])}")
    return request


def encode_answer(*words: object) -> bytes:
    """Encode one answer line; `shlex.split` of it returns *words* as strings."""
    line = " ".join(shlex.quote(str(word)) for word in words) + "\n"
    return line.encode("utf-8", "surrogateescape")  # paths may be any bytes


def encode_error(code: str, text: str) -> bytes:
    """An ``error CODE TEXT`` line; TEXT is one word to `shlex.split`."""
    return encode_answer("error", code, " ".join(text.split()))


class RequestReader:
    """Splits the bytes that arrive at the control FIFO into requests.

    In a FIFO, nothing separates the bytes of one writer from those of the next.
    Writers that keep to the protocol write a whole line at once. Bytes without
    a newline at the end are an incomplete line. It is held for its rest, for
    `HOLD` seconds, and cannot spoil the line that follows it:

    * if the next line is a valid request by itself, it is handled, and the
      incomplete line is held further;
    * otherwise the two are joined, as a slow writer would need;
    * if they are not a valid request together, a valid request with a
      ``reply`` is searched for at their end.
    """

    #: Seconds that an incomplete line is held.
    HOLD = 5.0

    def __init__(self) -> None:
        self._held = b""
        self._held_since = 0.0

    @property
    def waiting(self) -> bool:
        """Whether an incomplete line is held."""
        return bool(self._held)

    def feed(self, data: bytes, now: float) -> list[Request | RequestError]:
        """Return the requests that *data* completes, and errors for invalid lines.

        :param now: when *data* was read, in seconds of a monotonic clock.
        """
        *lines, tail = data.split(b"\n")
        out: list[Request | RequestError] = []
        for number, line in enumerate(lines):
            if number == 0 and self.waiting:
                out.extend(self._continued(line))
            elif line.strip():
                out.extend(self._whole(line))
        if tail:
            if not self._held:
                self._held_since = now
            # Only the end of a line that is too long matters: it may name a reply.
            self._held = (self._held + tail)[-2 * MAX_REQUEST :]
        return out

    def expire(self, now: float) -> RequestError | None:
        """Discard an incomplete line held for `HOLD` seconds; its error, or None."""
        if not self.waiting or now - self._held_since < self.HOLD:
            return None
        held, self._held = self._held, b""
        error = _bad("the request has no newline at its end")
        found = _find_reply.findall(held)
        error.reply = found[-1].decode("ascii") if found else None
        return error

    def _continued(self, line: bytes) -> list[Request | RequestError]:
        try:
            return [parse_request(line)]
        except RequestError:
            pass
        held, self._held = self._held, b""
        return self._whole(held + line)

    def _whole(self, line: bytes) -> list[Request | RequestError]:
        try:
            return [parse_request(line)]
        except RequestError as error:
            rescued = self._request_at_end(line)
            if rescued is None:
                return [error]
            # The FIFO that the request names gets its answer, not this error.
            error.reply = None
            return [error, rescued]

    @staticmethod
    def _request_at_end(line: bytes) -> Request | None:
        """The longest request with a ``reply`` that *line* ends with, or None.

        The search stops at the first value or quote. A remote user may choose the
        values of a request (SSH_ORIGINAL_COMMAND), and could otherwise put a
        request of their own into one.
        """
        values = _before_values.match(line)
        assert values is not None
        start = max(1, len(line) + 1 - MAX_REQUEST)
        # A bound on the work: a line of rubbish may contain a thousand verbs.
        for match in list(_find_verb.finditer(line, start, values.end()))[-16:]:
            try:
                found = _parse(line[match.start() :])
            except RequestError:
                continue
            if found.reply is not None:
                return found
        return None
