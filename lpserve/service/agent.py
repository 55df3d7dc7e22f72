# SPDX-License-Identifier: GPL-2.0-or-later

"""Tells a load balancer how this host is: HAProxy's agent check (``agent-check``)."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable

from .loop import Loop

log = logging.getLogger("lpserve")

#: Seconds until it is tried again to listen, or to accept: another process may listen
#: there, or descriptors may be short.
RETRY = 0.5
#: Connections that are answered in one iteration of the loop.
_AT_ONCE = 64


def health(stopping: bool, drained: bool, zygote: bool, limit: int, count: int) -> str:
    """The words of an answer, as HAProxy's manual lists them (``agent-check``).

    :param zygote: whether workers can be forked.
    :param limit, count: the connections that may be open, 0 for any number, and those
        that are.
    """
    if stopping:
        return "maint"
    if drained:
        return "drain"
    if not zygote:
        return "down#no zygote"
    free = 100 if not limit else max(1, 100 * (limit - count) // limit)
    return f"ready up {free}%"


class Agent:
    """Answers each connection with one line, and closes it.

    :param answer: returns the line.
    :ivar fault: why it cannot listen; "" if it can, or is not to.
    """

    def __init__(self, loop: Loop, answer: Callable[[], str]):
        self.fault = ""
        self._loop = loop
        self._answer = answer
        self._address: tuple[str, int] | None = None
        self._listener: socket.socket | None = None
        self._trying = self._paused = False

    def listen(self, address: tuple[str, int] | None) -> None:
        """Listen at *address* from now on: an IP address and a port."""
        if address != self._address:
            self.close()
            self._address = address
            self._try()

    def close(self) -> None:
        """Listen no more."""
        self._address, self.fault = None, ""
        self._stop_listening()

    def pause(self) -> None:
        """Leave the address to another process, until `go_on`."""
        self._paused = True
        self._stop_listening()

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._loop.forget(self._listener.fileno())
            self._listener.close()
            self._listener = None

    def go_on(self) -> None:
        """Listen again."""
        self._paused = False
        self._try()

    def _try(self) -> None:
        self._trying = False
        if self._address is None or self._listener is not None or self._paused:
            return
        host, port = self._address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            with contextlib.ExitStack() as on_failure:
                made = on_failure.enter_context(socket.socket(family))
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                made.setblocking(False)
                made.bind(self._address)
                made.listen(_AT_ONCE)
                on_failure.pop_all()
        except OSError as error:
            fault = f"cannot listen on {host}:{port}: {error.strerror}"
            if fault != self.fault:
                log.error("lpserve.agent_listen: %s", fault)
                self.fault = fault
            self._try_later()
            return
        self.fault, self._listener = "", made
        self._loop.watch(made.fileno(), self._accept)

    def _try_later(self) -> None:
        if not self._trying:
            self._trying = True
            self._loop.call_later(RETRY, self._try)

    def _accept(self) -> None:
        assert self._listener is not None
        for _ in range(_AT_ONCE):
            try:
                link, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError:  # EMFILE: a listener that is open would wake us again
                self._stop_listening()
                self._try_later()
                return
            with link, contextlib.suppress(OSError):
                link.setblocking(False)
                # There is room for it in a new connection.
                link.send(self._answer().encode() + b"\n")
                link.shutdown(socket.SHUT_WR)
                # What is unread at the close would have the answer thrown away.
                link.recv(1024)
