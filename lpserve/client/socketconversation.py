# SPDX-License-Identifier: GPL-2.0-or-later

"""Sends one request to the service's socket, with our stdio for the worker.

Part of the stand-alone client: imports the standard library only (see ``client.py``).
"""

# The C module, because `socket` imports enum and selectors.
import _socket
import os
import select
import struct
import time

from ..location import socket_address, uid_fault
from .conversation import (
    ClientError,
    Exchange,
    NoService,
    check_directory,
    place_fault,
    service_fault,
)
from .relay import leave_stdio, pass_on, wait

_MSG_DONTWAIT, _MSG_NOSIGNAL = 0x40, 0x4000
_SHUT_RD = 0
#: Seconds between attempts to connect while the backlog of the socket is full.
_PAUSE = 0.01

EX_UNAVAILABLE = 69


class SocketConversation(Exchange):
    """One request to the socket and the answers to it."""

    def __init__(self, directory, signals=None, service_user=None):
        """Connect to the socket in *directory*.

        :param signals: a `relay.ForwardedSignals` that ends the waiting, or None.
        :param service_user: a user whose service is trusted, besides our own and
            root.
        :raises NoService: if there is no socket, no process listens at it, or the
            service is not trusted.
        """
        super().__init__(directory, signals)
        self._link = None
        self._service_user = service_user
        try:
            self._link = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
            self._link.setblocking(False)
            self.control = self.reply = self._link.fileno()
            self._connected = self._connect()
        except OSError as error:
            self.close()
            why = f" ({error.strerror})"
            raise service_fault(directory, "no service", why) from None
        except NoService:
            self.close()
            raise

    def _connect(self):
        """Connect; False if the backlog of the socket is full."""
        address, descriptor = socket_address(self.directory + "/socket")
        try:
            self._link.connect(address)
        except BlockingIOError:
            return False
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        found = self._link.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
        uid = struct.unpack("iII", found)[1]
        fault = uid_fault(uid, self._service_user)
        if fault is not None:
            raise self.fault(" " + fault)
        check_directory(self.directory, uid)
        return True

    def close(self):
        """Close the connection; idempotent."""
        if self._link is not None:
            self._link.close()
        self.control = self.reply = -1

    def send(self, words, deadline, stdio=()):
        """Send one request; *deadline* is in seconds of `time.monotonic`.

        :param stdio: descriptors for the worker.
        :raises NoService: if the service does not accept the connection in time.
        """
        request = self._encode(words)
        numbers = struct.pack(f"{len(stdio)}i", *stdio)
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, numbers)
        try:
            while not self._connected:
                self._pause(deadline)
                self._connected = self._connect()
            # The send buffer is empty, so the request fits.
            self._link.sendmsg([request], [rights] if stdio else [], _MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the service has closed, perhaps after an answer
        except OSError as error:
            raise place_fault(self.directory, f": {error.strerror}") from None

    def _pause(self, deadline):
        until = time.monotonic() + _PAUSE
        while time.monotonic() < until:
            wait({}, _PAUSE)
        for number in self._signals.seen() if self._signals is not None else ():
            raise ClientError(128 + number, f"ended by signal {number}")
        if until > deadline:
            raise self.fault(" does not answer")

    def _receive(self):
        try:
            data = self._link.recv(65536, _MSG_DONTWAIT)
        except ConnectionError:
            data = b""
        if not data:
            raise self.ended()
        return data

    def wait_answer(self, deadline):
        """The next answer, as a list of words.

        After NoService, no worker uses our stdio, now or later.

        :raises NoService: if no answer comes before *deadline*, or the service ends.
        :raises ClientError: if a late answer leaves open whether a worker does.
        """
        try:
            return super().wait_answer(deadline)
        except NoService:
            # A worker that cannot write its "ok" does not use our stdio.
            try:
                self._link.shutdown(_SHUT_RD)
                late = self.read_answer()
            except (OSError, NoService):
                late = None
            if late is None or late[0] == "error":
                raise
        fault = self.fault(" answered too late; try again")
        raise ClientError(EX_UNAVAILABLE, str(fault), fault.public)


class DirectSession:
    """Waits for the end of one connection whose worker has our stdio.

    :param conversation: the `SocketConversation` that got the answer.
    :param signals: a `relay.ForwardedSignals`.
    :param pid: of the worker.
    """

    def __init__(self, conversation, signals, pid):
        self._conversation = conversation
        self._signals = signals
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError:
            self._pidfd = -1  # the worker has ended: the next answer tells how
        # Only the worker keeps stdio open, so that its close takes effect.
        leave_stdio()

    def run(self):
        """Wait until the worker has ended, and pass signals on to it.

        :returns: the last answer as a list of words; None if both the service and
            the worker ended without one.
        """
        wanted = {
            self._conversation.reply: select.POLLIN,
            self._signals.descriptor: select.POLLIN,
        }
        while True:
            try:
                answer = self._conversation.read_answer()
            except NoService:
                return None
            if answer is not None:
                return answer
            wait(wanted)
            for number in self._signals.seen():
                if self._pidfd >= 0:
                    self._pass_on(number)

    def _pass_on(self, number):
        try:
            pass_on(self._pidfd, number)
        except PermissionError:
            # The worker of another user; the service sends it SIGHUP when we exit.
            raise ClientError(128 + number, f"ended by signal {number}") from None

    @staticmethod
    def explained(status):
        """Whether the worker wrote to standard error why it ends with *status*.

        Its output does not pass through here, so the status has to tell.
        """
        return status in (3, 4)  # what `smartserver.report_error` returns
