# SPDX-License-Identifier: GPL-2.0-or-later

"""A small HTTP server: /metrics and /healthz, each computed in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Generic, NamedTuple, TypeVar

log = logging.getLogger("lpserve")

#: Seconds that a client has for its request, and to read the response.
PATIENCE = 5.0
#: Connections that may be open at once.
MOST = 64
#: The longest head of a request in bytes.
_LONGEST = 8192

_T = TypeVar("_T")


class Computed(Generic[_T]):
    """A value that is computed by one thread at a time, for all who wait for it.

    :param compute: called in a thread.
    :param kept: seconds that a value is good for.
    """

    def __init__(self, compute: Callable[[], _T], kept: float = 0.0):
        self._compute = compute
        self._kept = kept
        self._future: asyncio.Future[_T] | None = None
        self._until = 0.0

    async def get(self) -> _T:
        """The value, if it is still good; else that which is computed now."""
        future = self._future
        if future is None or (future.done() and time.monotonic() >= self._until):
            loop = asyncio.get_running_loop()
            future = self._future = loop.create_future()
            # It does not keep the process from ending.
            threading.Thread(target=self._run, args=(loop, future), daemon=True).start()
        return await asyncio.shield(future)

    def _run(self, loop: asyncio.AbstractEventLoop, future: asyncio.Future[_T]) -> None:
        try:
            value = self._compute()
        except Exception as error:
            log.exception("a fault")
            self._call(loop, future.set_exception, error)
        else:
            self._call(loop, self._set, future, value)

    def _set(self, future: asyncio.Future[_T], value: _T) -> None:
        self._until = time.monotonic() + self._kept
        future.set_result(value)

    @staticmethod
    def _call(
        loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: object
    ) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: we are ending
            loop.call_soon_threadsafe(function, *args)


class Response(NamedTuple):
    """The response to a request."""

    status: str
    body: bytes
    kind: str = "text/plain; charset=utf-8"


#: Answers a request for a path.
Page = Callable[[], Awaitable[Response]]


class Web:
    """Answers GET and HEAD requests, one for each connection.

    A client that is slow is disconnected after `patience`. If too many are connected,
    the one that has waited longest without a request makes place; if all have sent
    theirs, further ones are disconnected at once.

    :param pages: what answers each path.
    """

    def __init__(
        self, pages: dict[str, Page], patience: float = PATIENCE, most: int = MOST
    ):
        self._pages = pages
        self._patience = patience
        self._most = most
        #: Those whose requests have not arrived; a dict, because it has an order.
        self._asking: dict[asyncio.StreamWriter, None] = {}
        self._open = 0

    async def listen(self, host: str, port: int) -> asyncio.Server:
        """Begin to accept connections.

        :raises OSError: if that is not possible.
        """
        return await asyncio.start_server(
            self._connected, host, port, limit=_LONGEST, backlog=MOST
        )

    async def _connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self._open >= self._most:
            oldest = next(iter(self._asking), writer)
            self._asking.pop(oldest, None)
            oldest.transport.abort()
            if oldest is writer:
                return
        self._open += 1
        self._asking[writer] = None
        try:
            response = await self._answer(reader, writer)
            if response is not None:
                writer.write(response)
                writer.close()
                # It returns when all is sent.
                await asyncio.wait_for(writer.wait_closed(), self._patience)
        except (OSError, asyncio.TimeoutError, asyncio.CancelledError):
            pass  # cancelled, because the process is ending
        finally:
            self._open -= 1
            self._asking.pop(writer, None)
            writer.transport.abort()

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bytes | None:
        """The bytes of the response; None if there was no request."""
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), self._patience)
        except asyncio.LimitOverrunError:
            return _encode(Response("431 Request Header Fields Too Large", b""))
        except (asyncio.IncompleteReadError, OSError, asyncio.TimeoutError):
            return None
        finally:
            self._asking.pop(writer, None)
        words = head.decode("latin-1").partition("\r\n")[0].split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _encode(Response("400 Bad Request", b""))
        method, target, _ = words
        page = self._pages.get(target.partition("?")[0])
        if page is None:
            response = Response("404 Not Found", b"")
        elif method not in ("GET", "HEAD"):
            response = Response("405 Method Not Allowed", b"")
        else:
            try:
                response = await page()
            except Exception:  # its thread has logged it
                response = Response("500 Internal Server Error", b"a fault\n")
        return _encode(response, method != "HEAD")


def _encode(response: Response, whole: bool = True) -> bytes:
    """*response* as bytes; without its body if it is not to be *whole*."""
    body = response.body or f"{response.status[4:]}\n".encode()
    lines = [
        f"HTTP/1.1 {response.status}",
        f"Content-Type: {response.kind}",
        f"Content-Length: {len(body)}",
        *(["Allow: GET, HEAD"] if response.status.startswith("405") else []),
        "Cache-Control: no-store",
        "Connection: close",
    ]
    head = "\r\n".join(lines) + "\r\n\r\n"
    return head.encode("latin-1") + (body if whole else b"")
