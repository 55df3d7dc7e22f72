# SPDX-License-Identifier: GPL-2.0-or-later

"""Reads the requests of a client: a medium of Breezy's on two descriptors."""

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

from .. import scoreboard
from ..errors import ClientError
from . import intake, outlet
from .patience import HAS_POLL, Output, milliseconds


class _HungUp(BaseException):
    """SIGHUP has arrived while the medium waits for a request."""


class _Input:
    """The file object that Breezy expects; the medium reads its descriptor."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def close(self) -> None:
        """Do nothing: the caller owns the descriptor."""


#: Called when SIGHUP has come. No attribute of the class: a class that changes costs a
#: worker what the interpreter has remembered of it.
when_hung_up: list[Callable[[], None]] = []


class PipeMedium(_mod_medium.SmartServerPipeStreamMedium):
    """Breezy's medium on descriptors, with a read buffer of its own.

    It differs from Breezy's in three points. Breezy polls the descriptor for the next
    request, which may be in the buffer of the file object already, and then waits
    until the time-out. Breezy wakes up every second to check whether it should stop;
    here SIGHUP interrupts the wait. Breezy waits without end for the rest of a
    request, and for a client that does not read.

    :param timeout: seconds without a request after which the client is disconnected;
        None for Breezy's ``serve.client_timeout``.
    :param patience: seconds within a request without a byte from the client, or
        without room for an answer, after which it is disconnected; 0: never.
    """

    #: The longest poll, in seconds: a SIGHUP right before it does not interrupt it.
    _POLL_SECONDS = 20.0
    #: Called after each such poll without a request.
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
        #: Whether SIGHUP may interrupt: no request has begun.
        self.waiting = False
        #: Called before each request.
        self.begin_request: Callable[[], None] | None = None

    def serve(self) -> None:
        """Serve requests until the client disconnects, or SIGHUP arrives.

        Unlike Breezy's, it raises errors instead of reporting them.
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
        """Handle SIGHUP: stop after this request, or at once if there is none."""
        for each in when_hung_up:
            each()
        self._stop_gracefully()
        if self.waiting:
            self.waiting = False
            raise _HungUp

    # -- reading ---------------------------------------------------------------

    def _serve_one_request_unguarded(self, protocol: Any) -> None:
        if self.begin_request is not None:
            self.begin_request()
        is_three = isinstance(protocol, intake.ProtocolThreeDecoder)
        outlet.current.output = self._out if is_three else None
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
        """Read a line; without its newline if the client has closed."""
        if (end := self._received.find(b"\n") + 1) > 0:  # nearly always
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
        """Read from the client, which is within a request; b"" at the end of file.

        :raises ClientError: if nothing arrives in time.
        """
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
        data = os.read(self._in.fileno(), 1 << 16)
        scoreboard.current.numbers[scoreboard.BYTES_IN] += len(data)
        return data

    def _wait_for_bytes_with_timeout(self, timeout_seconds: float) -> None:
        if self._received:
            return
        if not HAS_POLL:
            return  # Windows, where Breezy has no time-out either
        self._ready = True
        if self._poller.poll(0):
            return
        scoreboard.current.numbers[scoreboard.STATE] = scoreboard.WAITING
        # Read late, so that the first request does not wait for breezy.conf.
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
        """End the connection after an error that was not sent as an answer."""
        # A failed write comes first: Breezy may have raised another error since.
        self._error = self._out.error or sys.exc_info()[1]
        self.finished = True
        with contextlib.suppress(ClientError, OSError):
            self._out.close()

    def __str__(self) -> str:
        return "lp-serve"
