# SPDX-License-Identifier: GPL-2.0-or-later

"""The socket that listens: accepts connections, and reads the headers of proxies.

A header is read with MSG_PEEK until it is there as a whole, and only then taken from
the socket: what follows it is left for whoever serves the connection.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import time
from collections.abc import Callable
from typing import Any

from ..conch.fifos import DescriptorWatcher
from ..errors import ConfigurationError
from ..loginrules import Network, is_in
from .arrivals import Address, Arrival
from .proxyheader import LONGEST, Header, HeaderError, parse_header

log = logging.getLogger("lpserve")

#: Seconds that a proxy has for its header. HAProxy sends it when it connects.
HEADER_TIMEOUT = 10.0
#: The most connections that wait for the header of a proxy.
_MOST_WAITING = 1000
#: The most connections that are accepted before the reactor does other work.
_AT_ONCE = 64
#: Seconds until the next attempt to accept when there are no descriptors or memory.
_PAUSE = 0.5
_SHORTAGE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

#: Called with a socket, which does not block, and what is known of it.
Arrived = Callable[[socket.socket, Arrival], None]


class Listener:
    """Listens; accepts connections from `start` on.

    :param listen: an IP address and a port; 0 means any free port.
    :param arrived: called with each connection. It has to close the socket.
    :ivar proxies: the networks whose connections begin with a PROXY header.
    :ivar address: where it listens, once it does.
    :ivar family: of its addresses.
    """

    def __init__(self, reactor: Any, listen: tuple[str, int], arrived: Arrived):
        self.proxies: tuple[Network, ...] = ()
        self.address = Address(*listen)
        self.family = socket.AF_INET6 if ":" in listen[0] else socket.AF_INET
        self._reactor = reactor
        self._arrived = arrived
        self._socket: socket.socket | None = None
        self._watcher: DescriptorWatcher | None = None
        self._timer: Any = None
        self._waiting: set[_Greeting] = set()
        self._greeted_all: Callable[[], None] | None = None

    def adopt(self, made: socket.socket) -> None:
        """Listen with this socket, without accepting yet."""
        made.setblocking(False)
        self._socket = made
        self.family = made.family
        self.address = Address(*made.getsockname()[:2])

    def copy(self) -> int:
        """A copy of the descriptor that listens.

        :raises OSError: if none is free.
        """
        assert self._socket is not None
        return os.dup(self._socket.fileno())

    def leave(self, done: Callable[[], None]) -> None:
        """Leave the socket to another process, which has a copy.

        :param done: called when no header of a proxy is waited for any more.
        """
        self._close_socket()
        self._greeted_all = done
        self._tell_greeted()

    def _tell_greeted(self) -> None:
        if self._greeted_all is not None and not self._waiting:
            done, self._greeted_all = self._greeted_all, None
            done()

    def open(self) -> None:
        """Listen, without accepting yet.

        :raises ConfigurationError: if that is not possible.
        """
        made = socket.socket(self.family, socket.SOCK_STREAM)
        try:
            made.setblocking(False)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(self.address)
            made.listen(1024)
        except OSError as error:
            made.close()
            host, port = self.address
            reason = error.strerror or str(error)
            raise ConfigurationError(
                f"cannot listen on {host}:{port}: {reason}"
            ) from None
        self._socket = made
        self.address = Address(*made.getsockname()[:2])

    def start(self) -> None:
        """Accept connections."""
        self._timer = None
        if self._socket is not None and self._watcher is None:
            fd = self._socket.fileno()
            self._watcher = DescriptorWatcher(self._reactor, fd, self._accept)

    def pause(self) -> None:
        """Let new connections wait until `start`."""
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """Listen no more; idempotent."""
        self._close_socket()
        for greeting in list(self._waiting):
            greeting.close()

    def _close_socket(self) -> None:
        self.pause()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            if self._socket is None or self._watcher is None:
                return  # closed or paused by what has arrived
            try:
                made, address = self._socket.accept()
            except OSError as error:
                if error.errno in _SHORTAGE:
                    log.warning("cannot accept connections: %s", error.strerror)
                    self.pause()
                    self._timer = self._reactor.callLater(_PAUSE, self.start)
                return  # or there is no connection, or its client has gone
            made.setblocking(False)
            self._handle(made, _address(address))

    def _handle(self, made: socket.socket, peer: Address) -> None:
        now = time.time()
        local = _address(made.getsockname())
        if not is_in(peer.host, self.proxies):
            self._arrived(made, Arrival(now, peer, local))
        elif len(self._waiting) >= _MOST_WAITING:
            log.warning("%s: too many connections without a PROXY header", peer)
            made.close()
        else:
            arrival = Arrival(now, peer, local, peer)
            greeting = _Greeting(self._reactor, made, arrival, self._greeted)
            self._waiting.add(greeting)
            greeting.read()

    def _greeted(self, greeting: _Greeting, arrival: Arrival | None) -> None:
        self._waiting.discard(greeting)
        if arrival is not None:
            self._arrived(greeting.socket, arrival)
        self._tell_greeted()


class _Greeting:
    """Reads the header of a proxy.

    :param done: called once, with the client's `Arrival`; with None if there is no
        header. The socket is closed then.
    """

    def __init__(
        self,
        reactor: Any,
        made: socket.socket,
        arrival: Arrival,
        done: Callable[[_Greeting, Arrival | None], None],
    ):
        self.socket = made
        self._reactor = reactor
        self._arrival = arrival
        self._done = done
        self._wanted = 1
        self._watcher: DescriptorWatcher | None = None
        self._timer = reactor.callLater(HEADER_TIMEOUT, self._too_late)

    def read(self) -> None:
        """Look whether the header is there."""
        try:
            data = self.socket.recv(LONGEST, socket.MSG_PEEK)
            found = parse_header(data)
            if not data:
                self.close()  # a probe that only looks whether somebody listens
            elif isinstance(found, Header):
                # As much as was seen is there.
                self.socket.recv(found.length)
                self._finish(found)
            elif self._has_ended():
                raise HeaderError("it ended within its PROXY header")
            else:
                self._wait(found)
        except BlockingIOError:
            self._wait(1)
        except HeaderError as error:
            self._fail(str(error))
        except OSError as error:
            if self._wanted == 1:
                self.close()  # a probe, as above
            else:
                self._fail(error.strerror or str(error))

    def _has_ended(self) -> bool:
        """Whether nothing comes after what is there."""
        poller = select.poll()
        poller.register(self.socket, select.POLLRDHUP)
        return bool(poller.poll(0))

    def _wait(self, wanted: int) -> None:
        """Wait until there are *wanted* bytes: fewer do not wake the reactor."""
        if wanted != self._wanted:
            self._wanted = wanted
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wanted)
        if self._watcher is None:
            fd = self.socket.fileno()
            self._watcher = DescriptorWatcher(self._reactor, fd, self.read)

    def _finish(self, header: Header) -> None:
        if self._wanted != 1:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        self._stop()
        arrival = self._arrival
        if header.source is not None and header.destination is not None:
            arrival = Arrival(
                arrival.accepted, header.source, header.destination, arrival.proxy
            )
        self._done(self, arrival)

    def _too_late(self) -> None:
        self._fail(f"no PROXY header within {HEADER_TIMEOUT:g} seconds")

    def _fail(self, why: str) -> None:
        log.warning("connection from %s closed: %s", self._arrival.peer, why)
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._stop()
        # The reactor may still have an event for the descriptor; see `close_soon`.
        self._reactor.callLater(0, self.socket.close)
        self._done(self, None)

    def _stop(self) -> None:
        if self._timer.active():
            self._timer.cancel()
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher = None


def _address(found: tuple[Any, ...]) -> Address:
    """What accept(2) or getsockname(2) gives as an `Address`."""
    if len(found) == 4 and found[3]:
        # With the scope, which a link-local address needs.
        numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        return Address(socket.getnameinfo(found, numeric)[0], int(found[1]))
    return Address(str(found[0]), int(found[1]))
