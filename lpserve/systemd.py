# SPDX-License-Identifier: GPL-2.0-or-later

"""What systemd and a service say to each other: sd_notify(3), sd_listen_fds(3)."""

from __future__ import annotations

import array
import errno
import os
import socket
import time
from collections import deque
from collections.abc import Callable, MutableMapping
from typing import NamedTuple

from .errors import ConfigurationError

#: The first descriptor that is passed (SD_LISTEN_FDS_START).
_FIRST = 3
#: Seconds until a message is sent again for which systemd had no room.
_RETRY = 0.1
#: What passes by itself: there was no room, or no descriptor.
_PASSING = (errno.EAGAIN, errno.ENOBUFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class Passed(NamedTuple):
    """A descriptor that systemd has passed, and its name (``FDNAME``)."""

    name: str
    descriptor: int


def take_descriptors(
    environ: MutableMapping[str, str] | None = None,
) -> list[Passed]:
    """What systemd has passed to this process; no child inherits it.

    :raises ConfigurationError: if the environment makes no sense.
    """
    environ = os.environ if environ is None else environ
    pid, count, names = (
        environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    )
    if not count or pid != str(os.getpid()):
        return []  # it was for one that started us
    if not (count.isascii() and count.isdigit() and len(count) < 5):
        raise ConfigurationError(f"LISTEN_FDS={count} is not a number of descriptors")
    named = names.split(":") if names else []
    found = []
    for number in range(_FIRST, _FIRST + int(count)):
        # What Python has opened since, no program after us inherits (PEP 446).
        try:
            passed = os.get_inheritable(number)
        except OSError:
            passed = False
        if not passed:
            raise ConfigurationError(
                f"LISTEN_FDS={count}, but descriptor {number} was not passed"
            )
        os.set_inheritable(number, False)
        position = number - _FIRST
        name = named[position] if position < len(named) else "unknown"
        found.append(Passed(name, number))
    return found


def watchdog_interval(environ: MutableMapping[str, str] | None = None) -> float | None:
    """Seconds between two signs of life, half of what systemd waits; None: no need."""
    environ = os.environ if environ is None else environ
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = environ.get("WATCHDOG_USEC", "")
    if not (text.isascii() and text.isdigit() and int(text)):
        return None
    return int(text) / 2e6


class Notifier:
    """Tells systemd, where it asked to be told, and never waits for it.

    :param later: calls a function after so many seconds.
    """

    def __init__(self, later: Callable[[float, Callable[[], None]], object]):
        self._later = later
        address = os.environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address[:1] == "@" else address
        # What there was no room for: lines, and a descriptor of ours or -1.
        self._unsent: deque[tuple[bytes, int]] = deque()
        self._told = ""
        self._reloading = self._silent = False

    def ready(self, status: str) -> None:
        """We serve; after `reloading`, with new settings or the old ones."""
        self._told, self._reloading = status, False
        self._send(f"READY=1\nMAINPID={os.getpid()}\nSTATUS={_one_line(status)}")

    def reloading(self) -> None:
        """A reload begins; `ready` says that it has ended."""
        self._reloading = True
        now = time.monotonic_ns() // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now}\nSTATUS=reloading")

    def hand_on(self, pid: int) -> None:
        """The process *pid* is the service from now on, and says all the rest."""
        self._send(f"MAINPID={pid}")
        self._silent = True

    def come_back(self) -> None:
        """We are the service again; `ready` follows."""
        self._silent = False

    def stopping(self, status: str) -> None:
        """No more is served."""
        self._told = status
        self._send(f"STOPPING=1\nSTATUS={_one_line(status)}")

    def tell(self, status: str) -> None:
        """What we do is this: a line for people, sent if it has changed.

        Not during a reload, and not while systemd has no room.
        """
        if status != self._told and not (self._unsent or self._reloading):
            self._told = status
            self._send(f"STATUS={_one_line(status)}")

    def watch_us(self) -> None:
        """Give signs of life while *later* calls back, if systemd waits for them."""
        interval = watchdog_interval()
        if interval is None or not self._address:
            return

        def sign() -> None:
            if not self._unsent:
                self._send("WATCHDOG=1")
            self._later(interval, sign)

        sign()

    def store(self, name: str, descriptor: int) -> None:
        """Have a copy of *descriptor* kept, and passed to who is started after us.

        :param name: no other is kept by it: letters, digits and ``.-``.
        """
        self._send(f"FDSTORE=1\nFDNAME={name}", descriptor)

    def remove(self, name: str) -> None:
        """Have what is kept as *name* closed."""
        self._send(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def _send(self, text: str, descriptor: int = -1) -> None:
        if not self._address or self._silent:
            return
        data = text.encode("utf-8", "replace")
        if self._unsent or not self._send_now(data, descriptor):
            kept = -1
            if descriptor >= 0:
                try:
                    kept = os.dup(descriptor)
                except OSError:
                    return  # it is to be had without
            if not self._unsent:
                self._later(_RETRY, self._send_rest)
            self._unsent.append((data, kept))

    def _send_rest(self) -> None:
        while self._unsent:
            if not self._send_now(*self._unsent[0]):
                self._later(_RETRY, self._send_rest)
                return
            self._drop_first()

    def _send_now(self, data: bytes, descriptor: int) -> bool:
        """Send one message; False if it is to be tried again."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                # Not socket.send_fds: it does not look at the address.
                numbers = array.array("i", [descriptor] if descriptor >= 0 else [])
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)
                sender.sendmsg([data], [rights] if numbers else [], 0, self._address)
        except OSError as error:
            # Anything else, as that nobody listens, is systemd's affair.
            return error.errno not in _PASSING
        return True

    def close(self) -> None:
        """Send what is left, if there is room."""
        while self._unsent and self._send_now(*self._unsent[0]):
            self._drop_first()
        while self._unsent:
            self._drop_first()

    def _drop_first(self) -> None:
        _, descriptor = self._unsent.popleft()
        if descriptor >= 0:
            os.close(descriptor)


def _one_line(text: str) -> str:
    return " ".join(text.split())
