# SPDX-License-Identifier: GPL-2.0-or-later

"""Makes answers encodable, and removes paths of this host from errors.

Breezy encodes an answer while it writes it. If a word cannot be encoded (None as the
token of a lock that is not held, text in place of bytes), the client waits without end
for the rest. Here each word is made encodable first. An answer that still cannot be
sent is replaced by an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from breezy import errors, trace, urlutils
from breezy.bzr.smart import message, protocol, request
from breezy.bzr.smart.request import FailedSmartServerResponse

from ..errors import text_of

_translate_error = request._translate_error

#: The replacement of a path of this host.
HIDDEN = "..."
#: Errors whose words are texts or paths.
_WITH_PATHS = frozenset(
    (
        b"AlreadyControlDir",
        b"BzrCheckError",
        b"DirectoryNotEmpty",
        b"FileExists",
        b"IncompatibleRepositories",
        b"InvalidURL",
        b"LockFailed",
        b"NoSuchFile",
        b"PermissionDenied",
        b"ReadError",
        b"ShortReadvError",
        b"UnstackableBranchFormat",
        b"UnstackableRepositoryFormat",
        b"error",
    )
)
#: The most characters of a text in which paths are searched for (PATH_MAX).
_LONGEST_TEXT = 4096
#: A URL below the root, another URL, or a path of this host. The scheme of a URL has a
#: limit, because the search starts at each letter.
_PATHS = re.compile(
    r"(?P<inside>(?:readonly\+)?filtered-\d{1,20}:///)"
    r"|(?P<elsewhere>\b(?!(?:[a-z]{1,20}\+){0,4}file:)[a-z][a-z0-9+.-]{0,40}://[^\s'\"]*)"
    r"|(?<![^\s'\"`(<\[=:,])(?:(?:[a-z]{1,20}\+){0,4}file://[^/\s]*)?/[^\s'\"`)>\],;]*"
)


def hide_paths(text: str, root: str = "/") -> str:
    """Remove the paths of this host from *text*, which is cut if it is long.

    Paths below *root*, and URLs of the connection's transports, are replaced by the
    paths that the client knows.
    """
    text = text[:_LONGEST_TEXT]
    if root != "/":
        for base in (urlutils.local_path_to_url(root), root):
            text = text.replace(f"{base}/", "filtered-0:///")
    return _PATHS.sub(_shown, text)


def _shown(match: re.Match[str]) -> str:
    if match["inside"]:
        return "/"
    return match["elsewhere"] or (match[0] if match[0] == "/" else HIDDEN)


def translate(error: Exception) -> tuple[Any, ...]:
    """The words of the answer to a request that failed with *error*.

    Replaces ``breezy.bzr.smart.request._translate_error``, which raises for some.

    :raises MemoryError: if *error* is one, so that the connection ends. Clients do not
        understand Breezy's answer to it for every request.
    """
    if isinstance(error, MemoryError):
        raise error
    if not isinstance(error, (OSError, UnicodeError)):
        try:
            return _translate_error(error)
        except Exception:
            trace.log_exception_quietly()  # with *error* as its context
    else:
        trace.log_exception_quietly()
    text = text_of(error).encode("utf-8", "replace")
    return b"error", type(error).__name__.encode(), text


def unless_readonly(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap *method* of a request, to refuse it in a read-only service.

    Without this a lock succeeds there: most repository formats write no file for it.
    """

    def refuse(asked: Any, repository: Any, *words: Any) -> Any:
        if (
            asked._backing_transport.is_readonly()
            or repository.control_transport.is_readonly()
        ):
            raise errors.TransportNotPossible("readonly transport")
        return method(asked, repository, *words)

    return refuse


def left_to_client(verb: bytes) -> Callable[..., Any]:
    """A method of a request that has the client do without *verb*.

    Without this "brz break-lock" over SSH breaks a lock and asks nobody: Breezy's
    server has no user who could be asked. The client tells its user who has the lock.
    """

    def decline(asked: Any, found: Any) -> Any:
        return FailedSmartServerResponse((b"UnknownMethod", verb))

    return decline


def _encodable(word: Any) -> Any:
    """Convert *word* to types that all protocol versions encode; None becomes empty."""
    if isinstance(word, bytes):
        return word
    if isinstance(word, str):
        return word.encode("utf-8", "replace")
    if isinstance(word, int):
        return int(word)
    if isinstance(word, (list, tuple)):
        return [_encodable(each) for each in word]
    if isinstance(word, dict):
        return {_encodable(key): _encodable(each) for key, each in word.items()}
    return b"" if word is None else text_of(word).encode("utf-8", "replace")


def _error_words(words: Iterable[Any], root: str) -> list[Any]:
    """The words of an error, for the client."""
    encodable = _encodable(list(words))
    if not encodable or encodable[0] not in _WITH_PATHS:
        return encodable
    return [
        hide_paths(word.decode("utf-8", "replace"), root).encode("utf-8", "replace")
        if isinstance(word, bytes)
        else word
        for word in encodable
    ]


def _sound(response: Any) -> Any:
    """*response*; if its body has a wrong type, the response for an error."""
    body = response.body
    if body is None or isinstance(body, bytes):
        return response
    error = TypeError(f"a body of {type(body).__name__}")
    return FailedSmartServerResponse(translate(error))


class _LineProtocol(protocol.SmartServerRequestProtocolOne):
    """Answers of protocol versions one and two: words on a line."""

    def accept_bytes(self, data: bytes) -> None:
        try:
            super().accept_bytes(data)
        except Exception as error:
            # The start of the next request is not known, so the connection ends,
            # after an answer.
            if not self._finished:
                self._send_response(FailedSmartServerResponse(translate(error)))
            raise

    def _send_response(self, response: Any) -> None:
        response = _sound(response)
        if response.is_successful():
            words = _encodable(list(response.args))
        else:
            words = _error_words(response.args, self._backing_transport.root)
        response.args = [_on_a_line(word) for word in words]
        if response.body_stream is not None:
            response.body_stream = self._with_errors(response.body_stream)
        super()._send_response(response)

    def _with_errors(self, stream: Iterable[Any]) -> Iterator[Any]:
        """The chunks of *stream*; an error as the last of them."""
        try:
            yield from stream
        except Exception as error:
            words = _error_words(translate(error), self._backing_transport.root)
            yield FailedSmartServerResponse([_on_a_line(word) for word in words])


def _on_a_line(word: Any) -> bytes:
    if isinstance(word, bytes):
        return word.translate(None, b"\n\x01")
    if isinstance(word, list):
        return b" ".join(_on_a_line(each) for each in word)
    return str(word).encode()


class _ProtocolOne(_LineProtocol):
    """Answers of protocol version one."""


class _ProtocolTwo(_LineProtocol, protocol.SmartServerRequestProtocolTwo):
    """Answers of protocol version two."""


class _Responder(protocol.ProtocolThreeResponder):
    """Answers of protocol version three."""

    def __init__(self, write: Callable[[bytes], Any], root: str):
        super().__init__(write)
        self._root = root
        self._begun = self._failed = False

    def flush(self) -> None:
        self._begun = True
        super().flush()

    def send_response(self, response: Any) -> None:
        try:
            super().send_response(_sound(response))
        except Exception as error:
            if self._begun:
                raise  # the connection ends
            self._buf, self._buf_len = [], 0
            self.response_sent = False
            super().send_response(FailedSmartServerResponse(translate(error)))

    def send_error(self, exception: BaseException) -> None:
        if isinstance(exception, OSError):
            exception = OSError(text_of(exception))
        super().send_error(exception)

    def _write_error_status(self) -> None:
        self._failed = True
        super()._write_error_status()

    def _write_structure(self, words: Iterable[Any]) -> None:
        if self._failed:
            words = _error_words(words, self._root)
        super()._write_structure(_encodable(list(words)))


def _protocol_three(backing: Any, write: Callable[[bytes], Any], path: str) -> Any:
    handler = request.SmartServerRequestHandler(
        backing, commands=request.request_handlers, root_client_path=path
    )
    responder = _Responder(write, backing.root)
    return protocol.ProtocolThreeDecoder(
        message.ConventionalRequestHandler(handler, responder)
    )


def protocol_of(line: bytes) -> tuple[Callable[..., Any], bytes]:
    """The factory of the protocol for a request, and the first bytes of the request.

    Replaces ``breezy.bzr.smart.medium._get_protocol_factory_for_bytes``.

    :param line: the first line from the client, with the marker of a version.
    """
    if line.startswith(protocol.MESSAGE_VERSION_THREE):
        return _protocol_three, line[len(protocol.MESSAGE_VERSION_THREE) :]
    if line.startswith(protocol.REQUEST_VERSION_TWO):
        return _ProtocolTwo, line[len(protocol.REQUEST_VERSION_TWO) :]
    return _ProtocolOne, line
