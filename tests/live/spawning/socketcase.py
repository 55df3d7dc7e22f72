# SPDX-License-Identifier: GPL-2.0-or-later

"""What the tests of the socket of a real service share."""

import contextlib
import os
import re
import shlex
import socket

from ....lpserve.location import socket_address
from ...harness import DEADLINE, LiveTestCase, descriptors_of, read_line, wait_until

#: A plug-in with which the service looks after things more often.
BUSY_HOUSE = """
import sys
if "--fork-server" in sys.argv:
    from breezy.plugins.lpserve.lpserve.service import server, socketdoor
    server.HOUSEKEEPING = 0.2
    socketdoor.PATIENCE = 1.0
"""


class Link:
    """A connection to the socket made by hand, without a client.

    :ivar pid: the worker's, once `spawn` was answered.
    :ivar stdin, stdout, stderr: our ends of its pipes; -1 where there are none.
    """

    def __init__(self, directory):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(DEADLINE)
        address, parent = socket_address(os.path.join(directory, "socket"))
        try:
            self.socket.connect(address)
        except OSError:
            self.socket.close()
            raise
        finally:
            if parent >= 0:
                os.close(parent)
        self.stdin = self.stdout = self.stderr = self.pid = -1

    def send(self, data, *descriptors):
        socket.send_fds(self.socket, [data], descriptors)

    def answer(self):
        """The words of the next answer; none at the end of the connection."""
        try:
            return shlex.split(read_line(self.socket.fileno()).decode())
        except ConnectionError:
            return []

    def ask(self, line):
        """Send a request; the words of its answer."""
        self.send(line + b"\n")
        return self.answer()

    def request(self, user="alice", upto=None):
        """Make pipes, and a ``spawn`` or the first *upto* bytes of it."""
        line = f"spawn {user}\n".encode()
        stdin, self.stdin = os.pipe()
        self.stdout, stdout = os.pipe()
        self.stderr, stderr = os.pipe()
        try:
            self.send(line[:upto], stdin, stdout, stderr)
        finally:
            for descriptor in (stdin, stdout, stderr):
                os.close(descriptor)

    def spawn(self, user="alice"):
        """A worker, which must be there."""
        self.request(user)
        answer = self.answer()
        if answer[:1] != ["ok"]:
            raise AssertionError(f"no worker: {answer}")
        self.pid = int(answer[1])
        return self

    def hello(self):
        """Ask the smart server for its version; its answer."""
        os.write(self.stdin, b"hello\n")
        return read_line(self.stdout)

    def close_stdio(self):
        for name in ("stdin", "stdout", "stderr"):
            if getattr(self, name) >= 0:
                os.close(getattr(self, name))
                setattr(self, name, -1)

    def close(self):
        """Close everything, as if it were a process that is killed."""
        self.socket.close()
        self.close_stdio()

    def end(self):
        """Let the worker end by itself; all answers up to the end."""
        self.close_stdio()
        answers = []
        while answer := self.answer():
            answers.append(answer)
        self.close()
        return answers


class SocketTestCase(LiveTestCase):
    door = "socket"

    def link(self):
        """A connection to the socket."""
        made = Link(self.runtime)
        self.addCleanup(made.close)
        return made

    def wait_for_end(self, pid, user="alice"):
        """How the worker *pid* ended, by the service's log: "exit 0"."""
        wanted = re.compile(rf"worker {pid} for {user}: (\w+ \d+) ")
        return wait_until(lambda: wanted.search(self.log_text()), "its end")[1]

    def of_service(self, *numbers):
        """Whether the service has any of our descriptors open."""
        ours = {os.readlink(f"/proc/self/fd/{number}") for number in numbers}
        return bool(ours & set(descriptors_of(self.service.pid).values()))

    def assertNothingGone(self, descriptors, spares=2):
        """The service has come to rest, with no more open, and no fault."""
        self.rest(spares, descriptors)
        status = self.status()
        self.assertEqual(0, status["totals"]["faults"], self.log_text()[-3000:])
        replies = [os.path.join(self.runtime, n) for n in ("replies", "connections")]
        wait_until(
            lambda: not any(map(os.listdir, replies)), "the directories are empty"
        )
        return status

    def kill_service(self):
        """As the kernel does when there is no memory left."""
        self.service.kill()
        self.service.wait()

    def wait_until_refused(self):
        """Until nobody has the socket of a killed service open.

        A zygote that it was just starting has, until its exec.
        """

        def refused():
            try:
                Link(self.runtime).close()
            except OSError:
                return True
            return False

        wait_until(refused, "nobody is in")

    @contextlib.contextmanager
    def file(self, name):
        """A descriptor of a new file."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        descriptor = os.open(os.path.join(self.test_dir, name), flags)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
