# SPDX-License-Identifier: GPL-2.0-or-later

"""The test plays systemd: it listens at a notify socket, holds the doors, and keeps
descriptors from one service to the next."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

from ...harness import DEADLINE, LiveTestCase, wait_until
from ..spawning.socketcase import BUSY_HOUSE

#: Starts a program as systemd does: descriptors from 3 on, and who they are for.
LAUNCH = """
import os, sys
numbers = [int(each) for each in sys.argv[1].split(",") if each]
for place, number in enumerate(numbers):
    os.dup2(number, 500 + place)
for number in numbers:
    os.close(number)
for place in range(len(numbers)):
    os.dup2(500 + place, 3 + place)
    os.close(500 + place)
os.environ["LISTEN_PID"] = os.environ["WATCHDOG_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


class SystemdCase(LiveTestCase):
    """A test that is systemd to the service.

    :ivar passed: what services are passed: name and descriptor.
    :ivar store: the descriptor store: name to descriptor.
    """

    def setUp(self):
        super().setUp()
        # A path that fits into an address: systemd knows no other way.
        self.runtime = tempfile.mkdtemp(prefix="lpserve-test-")
        self.add_plugin("busyhouse", BUSY_HOUSE)
        self.passed = []
        self.store = {}
        self.notify_name = f"@lpserve-{self.token}"
        self.notifications = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.notifications.close)
        self.notifications.settimeout(DEADLINE)
        self.notifications.bind("\0" + self.notify_name[1:])
        self.addCleanup(self._close_all)

    def check_nothing_left(self):
        """See `LiveTestCase`."""
        try:
            super().check_nothing_left()
        finally:
            shutil.rmtree(self.runtime)

    def _close_all(self):
        for number in (*(number for _, number in self.passed), *self.store.values()):
            os.close(number)
        if self.passed:
            self.remove_doors()

    def make_doors(self):
        """What lpserve.socket has systemd make."""
        os.mkdir(os.path.join(self.runtime, "replies"), 0o700)
        control = os.path.join(self.runtime, "control")
        os.mkfifo(control, 0o600)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        path = os.path.join(self.runtime, "socket")
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(100)
        fifo = os.open(control, os.O_RDWR | os.O_NONBLOCK)
        self.passed = [("lpserve.socket", each) for each in (fifo, listener.detach())]

    def brz(self, *words):
        """With what systemd adds, where it is the service."""
        argv = super().brz(*words)
        if "--fork-server" not in words:
            return argv
        numbers = ",".join(str(number) for _, number in self._all_passed())
        return [sys.executable, "-c", LAUNCH, numbers, *argv]

    def _all_passed(self):
        return [*self.passed, *self.store.items()]

    def start_service(self, *options, **env):
        """Start a service as systemd does."""
        passed = self._all_passed()
        if passed:
            env["LISTEN_FDS"] = str(len(passed))
            env["LISTEN_FDNAMES"] = ":".join(name for name, _ in passed)
        popen = {"pass_fds": [number for _, number in passed]}
        env["NOTIFY_SOCKET"] = self.notify_name
        return super().start_service(*options, popen=popen, **env)

    def stop_service(self, service=None):
        """As systemd does, and at once: it does not ask at the doors."""
        service = service or self.service
        for _ in range(2):
            with contextlib.suppress(ProcessLookupError):
                service.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return service.wait(1)
        return service.wait(DEADLINE)

    def receive(self):
        """The next notification, a dict; the store is kept up to date."""
        data, descriptors, _, _ = socket.recv_fds(self.notifications, 4096, 5)
        found = dict(each.split("=", 1) for each in data.decode().splitlines())
        if "FDSTORE" in found:
            self._close_stored(found["FDNAME"])
            self.store[found["FDNAME"]] = descriptors.pop()
        if "FDSTOREREMOVE" in found:
            self._close_stored(found["FDNAME"])
        self.assertEqual([], descriptors)
        return found

    def _close_stored(self, name):
        if name in self.store:
            os.close(self.store.pop(name))

    def receive_all(self):
        """Those that have come, if any."""
        found = []
        self.notifications.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self.receive())
        self.notifications.settimeout(DEADLINE)
        return found

    def wait_for(self, **expected):
        """The next notification with all of that."""
        while True:
            found = self.receive()
            if expected.items() <= found.items():
                return found

    def wait_for_status(self, text):
        """Wait until systemd is told that."""
        self.wait_for(STATUS=text)

    def wait_stored(self, count):
        """Wait until the store holds so many."""

        def stored():
            self.receive_all()
            return len(self.store) == count

        wait_until(stored, f"{count} descriptors are kept")
