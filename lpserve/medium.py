# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""The bytes of a connection: Breezy's medium on two descriptors."""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
import time
from collections.abc import Callable
from typing import Any

from breezy import config, errors, trace
from breezy.bzr.smart import medium as _mod_medium


class _HungUp(BaseException):
    """SIGHUP came while there was nothing to do but wait."""


class PipeMedium(_mod_medium.SmartServerPipeStreamMedium):
    """Breezy's medium on descriptors, with a read buffer of its own.

    Breezy's asks the kernel whether there is another request although it may
    be in the file object's buffer already, and then waits for the client until
    it times out. It also wakes up every second to look whether it was told to
    stop; here SIGHUP interrupts the waiting.

    :param timeout: seconds without a request until the client is given up;
        None for Breezy's ``serve.client_timeout``.
    """

    #: Longest that poll sleeps; SIGHUP may come right before it begins.
    _POLL_SECONDS = 20.0
    #: Called about as often while nothing is asked.
    idle: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, in_fd: int, out_fd: int, backing: Any, timeout: float | None):
        self._timeout = timeout
        in_file = io.FileIO(in_fd, "rb", closefd=False)
        out_file = open(out_fd, "wb", buffering=1 << 16, closefd=False)
        super().__init__(in_file, out_file, backing, timeout=timeout or 0)
        self._received = b""
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

    def _read_bytes(self, desired_count: int) -> bytes:
        if not self._received:
            self._received = os.read(self._in.fileno(), 1 << 16)
        data = self._received[:desired_count]
        self._received = self._received[desired_count:]
        return data

    def _wait_for_bytes_with_timeout(self, timeout_seconds: float) -> None:
        if self._received or self._push_back_buffer is not None:
            return
        if not hasattr(select, "poll"):
            return  # Windows: there Breezy does not time out either
        poller = select.poll()
        poller.register(self._in.fileno(), select.POLLIN)
        if poller.poll(0):
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
            ready = poller.poll(min(left, self._POLL_SECONDS) * 1000)
            self.waiting = False
            if ready:
                return
            self.idle()

    def _idle_timeout(self) -> float:
        if self._timeout is None:
            self._timeout = config.GlobalStack().get("serve.client_timeout")
        return self._timeout

    def terminate_due_to_error(self) -> None:
        """End the connection after an error that is nobody's answer."""
        self._error = sys.exc_info()[1]
        self.finished = True
        with contextlib.suppress(OSError):
            self._out.close()

    def __str__(self) -> str:
        return "lp-serve"
