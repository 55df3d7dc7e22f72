# SPDX-License-Identifier: GPL-2.0-or-later

"""One of several processes of lp-serve-ssh; `processes` has the messages.

It ends when the front does, and its connections with it. Signals are for the front.
"""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable
from typing import Any

from twisted.conch.ssh.keys import Key

from .. import system
from ..errors import ConfigurationError
from ..settings import Settings
from .arrivals import decode
from .keydirectory import KeyDirectory
from .posting import Post
from .server import Server

log = logging.getLogger("lpserve")

#: Signals that are for the front alone, and may be sent to all.
_OF_THE_FRONT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
#: Seconds for which news wait for more: each message wakes the front, which takes a
#: processor from those that log people in.
_DELAY = 0.01
#: The most news in a message.
_MOST_NEWS = 500


class Process:
    """Serves what the front sends it; `server.Owner` describes the methods.

    :param reactor: of the process; `run` runs it.
    :param end: of the channel.
    :param start: the message ``start``: ``brz`` and ``runtime_dir`` as for `Server`;
        the text of the ``key``; the path ``keys`` and the ``shared_account`` of a
        `KeyDirectory`. The rest is for `start.run_process`.
    :param read: reads the settings.
    """

    def __init__(
        self,
        reactor: Any,
        end: socket.socket,
        start: dict[str, Any],
        read: Callable[[], Settings],
    ):
        self._reactor = reactor
        self._read = read
        self._ended = False
        self._news: list[list[Any]] = []
        self._post = Post(reactor, end, self._handle)
        self._server = Server(
            reactor,
            read(),
            start["brz"],
            start["runtime_dir"],
            Key.fromString(start["key"].encode("ascii")),
            KeyDirectory(start["keys"], start["shared_account"]),
        )
        self._server.owner = self

    def run(self) -> None:
        """Serve until the front ends, or has us stop."""
        self._reactor.callWhenRunning(self._running)
        self._reactor.run()
        self._tell()
        self._post.flush()

    def _running(self) -> None:
        # Not SIG_IGN, which what we start would inherit.
        for number in _OF_THE_FRONT:
            signal.signal(number, lambda number, frame: None)
        system.disable_debugger()
        system.keep_what_is_loaded()
        system.set_title("lp-ssh-process")
        self._server.start()

    def _handle(self, message: dict[str, Any] | None, taken: list[int]) -> None:
        if message is None:
            self.over()  # the front has been killed
            return
        kind = message["kind"]
        if kind == "connection":
            family = message["family"]
            made = socket.socket(family, socket.SOCK_STREAM, 0, taken.pop())
            arrival = decode(message["arrival"])
            self._server.serve(made, arrival, message["number"])
        elif kind == "reload":
            self._reload()
        elif kind == "finish":
            self._server.finish()
        elif kind == "stop":
            self._server.stop()
        elif kind == "cut":
            self._server.cut(message["why"])
        elif kind == "ping":
            self._post.send("pong")

    def _reload(self) -> None:
        try:
            self._server.configure(self._read())
        except ConfigurationError as error:
            # It was changed again since the front has read it.
            log.error("cannot reload the configuration: %s", error)

    def ready(self) -> None:
        self._post.send("ready")

    def logged_in(self, number: int) -> None:
        self._tell_soon("logged-in", number)

    def lost(self, number: int, fault: str) -> None:
        self._tell_soon("lost", number, fault)

    def sessions_changed(self, count: int) -> None:
        # At once: a stop tells how many there are.
        self._tell_soon("sessions", count)
        self._tell()

    def _tell_soon(self, *news: str | int) -> None:
        if not self._news:
            self._reactor.callLater(_DELAY, self._tell)
        self._news.append(list(news))

    def _tell(self) -> None:
        # In bounds for a message, whatever has happened.
        for start in range(0, len(self._news), _MOST_NEWS):
            self._post.send("news", news=self._news[start : start + _MOST_NEWS])
        self._news = []

    def over(self) -> None:
        if not self._ended:
            self._ended = True
            self._reactor.stop()
