# SPDX-License-Identifier: GPL-2.0-or-later

"""The bytes of a connection: Breezy's medium on two descriptors."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections.abc import Callable
from typing import Any

from breezy import config, errors, trace
from breezy.bzr.smart import medium as _mod_medium

from ..errors import ClientError
from . import intake
from .patience import HAS_POLL, Output, milliseconds


class _HungUp(BaseException):
    """SIGHUP came while there was nothing to do but wait."""


class _Input:
    """What Breezy wants of a file: it is read by its descriptor."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def close(self) -> None:
        """Leave it open: it is not ours."""


class PipeMedium(_mod_medium.SmartServerPipeStreamMedium):
    """Breezy's medium on descriptors, with a read buffer of its own.

    Breezy's asks the kernel whether there is another request although it may
    be in the file object's buffer already, and then waits for the client until
    it times out. It also wakes up every second to look whether it was told to
    stop; here SIGHUP interrupts the waiting. And it waits for ever for the rest of
    a request, and for a client that does not read.

    :param timeout: seconds without a request until the client is given up;
        None for Breezy's ``serve.client_timeout``.
    :param patience: seconds in the middle of a request without a byte from the
        client, or without room for an answer, until it is given up; 0: never.
    """

    #: Longest that poll sleeps; SIGHUP may come right before it begins.
    _POLL_SECONDS = 20.0
    #: Called about as often while nothing is asked.
    idle: Callable[[], None] = staticmethod(lambda: None)

    def __init__(
        self,
        in_fd: int,
        out_fd: int,
        backing: Any,
        timeout: float | None,
        patience: float = 0,
    ):
        self._timeout = timeout
        self._patience = patience
        output = Output(out_fd, patience)
        super().__init__(_Input(in_fd), output, backing, timeout=timeout or 0)
        self._received = b""
        #: Whether the next read does not block.
        self._ready = False
        if HAS_POLL:
            self._poller = select.poll()
            self._poller.register(in_fd, select.POLLIN)
        self._error: BaseException | None = None
        #: Whether nothing is going on that SIGHUP would interrupt.
        self.waiting = False

    def serve(self) -> None:
        """Serve requests until the client disconnects, or SIGHUP comes.

        Unlike Breezy's it leaves it to the caller to tell of errors.
        """
        with contextlib.suppress(_HungUp):
            try:
                while not self.finished:
                    self._serve_one_request(self._build_protocol())
            except errors.ConnectionTimeout as error:
                trace.note(str(error))
            except Exception:
                self.terminate_due_to_error()
        if not self._out.closed:
            self._disconnect_client()
        if self._error is not None:
            raise self._error

    def hang_up(self, number: int, frame: Any) -> None:
        """Stop after this request, or at once if there is none: for SIGHUP."""
        self._stop_gracefully()
        if self.waiting:
            self.waiting = False
            raise _HungUp

    # -- reading ---------------------------------------------------------------

    def _serve_one_request_unguarded(self, protocol: Any) -> None:
        try:
            intake.take_in(protocol, self, self.backing_transport.is_readonly)
        except EOFError:
            self.finished = True
        self.flush()

    def read_some(self, count: int) -> bytes:
        """See `intake.Source`."""
        data = self._read_bytes(count)
        if not data:
            raise EOFError
        return data

    def flush(self) -> None:
        """See `intake.Source`."""
        self._out.flush()

    def read_line(self) -> bytes:
        """See `intake.Source`."""
        line = self._get_line()
        if not line.endswith(b"\n"):
            raise EOFError
        return line

    def _get_line(self) -> bytes:
        """A line, or what there is of it when the client has ended."""
        if (end := self._received.find(b"\n") + 1) > 0:  # it is, nearly always
            line, self._received = self._received[:end], self._received[end:]
            return line
        parts, size = [], 0
        while size <= intake.LONGEST and (part := self._read_bytes(1 << 16)):
            end = part.find(b"\n") + 1
            parts.append(part[: end or None])
            if end:
                self._received = part[end:] + self._received
                break
            size += len(part)
        else:
            if size > intake.LONGEST:
                raise ClientError("the client sent a line that is too long")
        return b"".join(parts)

    def _read_bytes(self, desired_count: int) -> bytes:
        if not self._received:
            self._received = self._receive()
        if desired_count >= len(self._received):
            data, self._received = self._received, b""
        else:
            data = self._received[:desired_count]
            self._received = self._received[desired_count:]
        return data

    def _receive(self) -> bytes:
        """What the client has sent, which owes us something; b"" if it has ended."""
        if (
            not self._ready
            and self._patience
            and HAS_POLL
            and not self._poller.poll(milliseconds(self._patience))
        ):
            raise ClientError(
                f"the client sent nothing for {self._patience:g} s in the middle of a "
                "request"
            )
        self._ready = False
        return os.read(self._in.fileno(), 1 << 16)

    def _wait_for_bytes_with_timeout(self, timeout_seconds: float) -> None:
        if self._received:
            return
        if not HAS_POLL:
            return  # Windows: there Breezy does not time out either
        self._ready = True
        if self._poller.poll(0):
            return
        # Only now: the first request has no need to wait for breezy.conf.
        timeout = self._idle_timeout()
        end = time.monotonic() + timeout
        while not self.finished:
            left = end - time.monotonic()
            if left <= 0:
                raise errors.ConnectionTimeout(
                    f"disconnecting client after {timeout:.1f} seconds"
                )
            self.waiting = True
            ready = self._poller.poll(min(left, self._POLL_SECONDS) * 1000)
            self.waiting = False
            if ready:
                return
            self.idle()

    def _idle_timeout(self) -> float:
        if self._timeout is None:
            self._timeout = config.GlobalStack().get("serve.client_timeout")
        return self._timeout

    # -- the end ---------------------------------------------------------------

    def terminate_due_to_error(self) -> None:
        """End the connection after an error that is nobody's answer."""
        # Breezy answers an error, and one in an answer too.
        self._error = self._out.error or sys.exc_info()[1]
        self.finished = True
        with contextlib.suppress(ClientError, OSError):
            self._out.close()

    def __str__(self) -> str:
        return "lp-serve"
