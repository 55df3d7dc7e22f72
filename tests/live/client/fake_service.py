# SPDX-License-Identifier: GPL-2.0-or-later

"""A service and a worker that the test itself plays, for tests of the client.

The test has the other ends of the three FIFOs, or the client's own stdio if the
client uses the socket. It decides who answers, writes, stalls or closes, and when.
"""

import contextlib
import errno
import hashlib
import os
import select
import socket
import subprocess
import threading

from ....lpserve import wire
from ....lpserve.location import socket_address
from ....lpserve.paths import RuntimeDirectory, remove_connection
from ...client.nativeclient import compiler, native_client
from ...harness import DEADLINE, LiveTestCase, wait_until

#: More than all the buffers on the way hold together.
PLENTY = 1 << 20
#: What a smart server answers to ``hello``.
HELLO = b"ok\x012\n"
#: A request of version 3, as Breezy sends it.
REQUEST = (
    b"bzr message 3 (bzr 1.6)\n\0\0\0\x1dd16:Software version6:3.3.23e"
    b"s\0\0\0\x1cl15:BzrDir.open_2.16:trunk/ee"
)


class FakeService:
    """The service and the worker of one client, played by the test.

    :param door: which door is there, "fifo" or "socket".
    :ivar worker: a process that does nothing; it gets the worker's signals.
    :ivar reply: the descriptor to which answers are written.
    :ivar stdin, stdout, stderr: what the worker's would be; -1 once closed.
    """

    def __init__(self, test, door="fifo"):
        self.directory = RuntimeDirectory(test.runtime)
        self.directory.prepare()
        self.path = os.path.join(test.runtime, "control")
        if door == "fifo":
            os.mkfifo(self.path, 0o600)
            self.control = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
        else:
            self.path = os.path.join(test.runtime, "socket")
            self.control = _listen(self.path)
        self.door = door
        self.worker = subprocess.Popen(["sleep", "600"], env=test.env)
        self.made = None
        self.reply = self.stdin = self.stdout = self.stderr = -1
        test.addCleanup(self.close)

    def request(self):
        """The next request."""
        wait_until(lambda: select.select([self.control], [], [], 1)[0], "a request")
        if self.door == "fifo":
            return wire.parse_request(os.read(self.control, 4096).strip())
        with socket.socket(fileno=os.dup(self.control)) as listener:
            link, _ = listener.accept()
        line, stdio, _, _ = socket.recv_fds(link, 4096, 3)
        self.stdin, self.stdout, self.stderr = stdio
        self.reply = link.detach()
        return wire.parse_request(line.removesuffix(b"\n"))

    def open_reply(self, request):
        """Open where the answers to a request go, if it is not."""
        if self.reply < 0:
            path = os.path.join(self.directory.replies, request.reply)
            self.reply = os.open(path, os.O_WRONLY)

    def accept(self):
        """Give the client that asks its worker; all is open when this returns."""
        request = self.request()
        self.open_reply(request)
        if self.door == "socket":
            self.answer("ok", self.worker.pid)
            return request
        self.made = self.directory.make_connection()
        self.stdin = os.dup(self.made.stdin)
        self.answer("ok", self.worker.pid, *self.made.fifos)
        self.stdout = _open_for_writing(self.made.fifos[1])
        self.stderr = _open_for_writing(self.made.fifos[2])
        self.made.close()
        remove_connection(self.made.path)
        return request

    def refuse(self, line):
        """Answer the next request with this *line*, and with nothing more."""
        self.open_reply(self.request())
        os.write(self.reply, line)
        self.hang_up()

    def answer(self, *words):
        os.write(self.reply, wire.encode_answer(*words))

    def close_worker(self, *names):
        """Close the worker's ends: all, or those named."""
        for name in names or ("stdin", "stdout", "stderr"):
            if getattr(self, name) >= 0:
                os.close(getattr(self, name))
                setattr(self, name, -1)

    def remove_connection(self):
        """Remove what a client has left of its FIFOs."""
        if self.made is not None:
            self.made.close()
            remove_connection(self.made.path)

    def hang_up(self):
        """Close everything that belongs to the present client."""
        self.close_worker()
        if self.reply >= 0:
            os.close(self.reply)
            self.reply = -1

    def kill(self):
        """End like a service that is killed together with its worker."""
        if self.control >= 0:
            os.close(self.control)
            self.control = -1
        if self.door == "socket":
            self.hang_up()

    def close(self):
        self.kill()
        self.hang_up()
        self.remove_connection()
        self.worker.kill()
        self.worker.wait()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


def _listen(path):
    """A descriptor that listens at the socket *path*."""
    listener = socket.socket(socket.AF_UNIX)
    address, directory = socket_address(path)
    listener.bind(address)
    if directory >= 0:
        os.close(directory)
    listener.listen()
    return listener.detach()


#: The stand-alone programs.
STAND_ALONE = [("stand-alone", {"native": False}), ("native", {"native": True})]
#: All programs, through the door that they choose.
PROGRAMS = [
    ("brz", {"program": "brz lp-serve-client", "native": False, "door": None}),
    ("stand-alone", {"program": "lp-serve-client", "native": False, "door": None}),
    ("native", {"program": "lp-serve-client", "native": True, "door": None}),
]
#: The stand-alone ones through each door, and the command of Breezy.
DOORS = [
    PROGRAMS[0],
    *(
        (f"{name}, {door}", {**attributes, "door": door})
        for name, attributes in PROGRAMS[1:]
        for door in ("fifo", "socket")
    ),
]


class StandAloneCase(LiveTestCase):
    """A test of the stand-alone client, once for each of the programs."""

    scenarios = STAND_ALONE

    def setUp(self):
        super().setUp()
        if self.native:
            self.requireFeature(compiler)

    @property
    def client_path(self):
        return native_client() if self.native else LiveTestCase.client_path


class ClientTestCase(StandAloneCase):
    """A test of the client, once for each of the programs."""

    scenarios = PROGRAMS

    def client_words(self, *words):
        if self.door is not None:
            words = ("--door", self.door, *words)
        if self.program == "lp-serve-client":
            return [self.client_path, *words]
        return self.brz("lp-serve-client", *words)

    def run_client(self, *words, stdin=b"hello\n", **env):
        """One connection; what came of it."""
        return self.run_program(self.client_words(*words), stdin, **env)

    def start_program(self, *words, **env):
        """A client that goes on until the test lets it end."""
        return self.start_words(self.client_words(*words), **env)

    def assertServed(self, done, *texts):
        """It answered ``hello``; one line of stderr has *texts* if there are any."""
        self.assertEqual((0, HELLO), (done.returncode, done.stdout), str(done.stderr))
        self.check_stderr(done.stderr, texts)

    def assertEnds(self, done, status, *texts):
        """It said nothing to the peer, and why in one line with all of *texts*."""
        self.assertEqual(
            (status, b""), (done.returncode, done.stdout), str(done.stderr)
        )
        self.check_stderr(done.stderr, texts)

    def check_stderr(self, stderr, texts):
        self.assertEqual(1 if texts else 0, stderr.count(b"\n"), str(stderr))
        for text in texts:
            self.assertContainsString(stderr.decode(), text)


def _open_for_writing(path):
    def opened():
        try:
            return [os.open(path, os.O_WRONLY | os.O_NONBLOCK)]
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return None

    descriptor = wait_until(opened, f"the client opens {os.path.basename(path)}")[0]
    os.set_blocking(descriptor, True)
    return descriptor


def read_to_end(descriptor):
    """Everything up to the end of file."""
    data = b""
    while select.select([descriptor], [], [], DEADLINE)[0]:
        try:
            chunk = os.read(descriptor, 1 << 16)
        except OSError as error:  # what a terminal says at its end
            if error.errno != errno.EIO:
                raise
            chunk = b""
        if not chunk:
            return data
        data += chunk
    raise AssertionError(f"no end of file after {len(data)} bytes")


def read_exactly(descriptor, count):
    data = b""
    while len(data) < count:
        if not select.select([descriptor], [], [], DEADLINE)[0]:
            raise AssertionError(f"only {len(data)} of {count} bytes came")
        chunk = os.read(descriptor, count - len(data))
        if not chunk:
            raise AssertionError(f"end of file after {len(data)} of {count} bytes")
        data += chunk
    return data


def fill(descriptor, limit=PLENTY):
    """Write until nobody takes any more for a while; how many bytes went."""
    os.set_blocking(descriptor, False)
    count = 0
    try:
        while count < limit and select.select([], [descriptor], [], 0.3)[1]:
            with contextlib.suppress(BlockingIOError):
                count += os.write(descriptor, b"x" * 4096)
    finally:
        os.set_blocking(descriptor, True)
    return count


def flood(descriptor):
    """Write until nobody can read it any more."""
    while True:
        os.write(descriptor, b"x" * 4096)


def pattern(size):
    """*size* bytes of which no two places look the same."""
    block = b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(size // 32 + 1))
    return block[:size]


class RelayTestCase(StandAloneCase):
    def setUp(self):
        super().setUp()
        self.fake = FakeService(self)

    def start(self, stdin=None, stdout=None, stderr=None, **popen):
        """A client with these as its stdio (default: pipes), and its worker."""
        popen.update(stdin=stdin, stdout=stdout, stderr=stderr)
        chosen = {name: each for name, each in popen.items() if each is not None}
        self.client = self.start_client("alice", popen=chosen)
        self.addCleanup(self.fake.close)  # before the client is waited for
        self.fake.accept()
        return self.client

    def finish(self, *words):
        """The worker ends; the client's exit status."""
        self.fake.close_worker()
        self.fake.answer(*(words or ("exit", 0)))
        return self.client.wait(DEADLINE)

    def write_aside(self, descriptor, data):
        """Write *data* from a thread, which the test need not wait for."""

        def write():
            with contextlib.suppress(BrokenPipeError):
                left = memoryview(data)
                while left:
                    left = left[os.write(descriptor, left) :]

        thread = threading.Thread(target=write)
        thread.start()
        self.addCleanup(thread.join, DEADLINE)
        return thread

    def pipe(self):
        """Both ends of a pipe, as files that may be closed twice."""
        reader, writer = os.pipe()
        files = os.fdopen(reader, "rb", 0), os.fdopen(writer, "wb", 0)
        for each in files:
            self.addCleanup(each.close)
        return files
