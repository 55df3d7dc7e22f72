# SPDX-License-Identifier: GPL-2.0-or-later

"""What the tests of much data through 'brz lp-serve-ssh' share.

A plug-in gives the workers two more requests, that send and take as many bytes
as they are told and keep none.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import select
import signal
import socket
import threading

from ...harness import DEADLINE, read_line, wait_until
from .logincase import LoginCase
from .sshcase import HELLO

#: How much is sent through one connection.
MEGABYTES = int(os.environ.get("LPSERVE_FLOW_MEGABYTES", "200"))
#: How long nobody takes it; that is by default as short as still shows it.
SECONDS = float(os.environ.get("LPSERVE_FLOW_SECONDS", "0.5"))
#: What of all that the server may have in its memory.
BOUND = 16 << 20
# What a client writes, again and again: of a length that no buffer has, so that
# nothing is lost or written twice without a trace.
_BYTES = os.urandom(1048573)

_PLUGIN = '''
import hashlib
import os
import select

from breezy.bzr.smart import request


def wait_for_room(path):
    """Wait until there is room in stdout; leave a sign at *path* if it takes long."""
    if not select.select([], [1], [], {seconds})[1]:
        open(path, "w").close()
        select.select([], [1], [])


class Source(request.SmartServerRequest):
    """Sends so many bytes, then the digest of them."""

    def do(self, count, name):
        digest = hashlib.sha1()
        left, filler = int(count), os.urandom(1 << 16)
        os.set_blocking(1, False)
        while left:
            block = (left.to_bytes(8, "big") + filler)[:left][:65536]
            digest.update(block)
            left -= len(block)
            while block:
                wait_for_room(os.path.join({directory!r}, name.decode()))
                try:
                    block = block[os.write(1, block):]
                except BlockingIOError:
                    pass
        os.set_blocking(1, True)
        digest = digest.hexdigest().encode()
        return request.SuccessfulSmartServerResponse((b"ok", digest))


class Sink(request.SmartServerRequest):
    """Takes so many bytes, after it has said that it is there."""

    def do(self, count):
        os.write(1, b"go\\n")
        digest, left = hashlib.sha1(), int(count)
        while left:
            data = os.read(0, min(left, 65536))
            if not data:
                break
            digest.update(data)
            left -= len(data)
        digest = digest.hexdigest().encode()
        return request.SuccessfulSmartServerResponse((b"ok", digest))


for name, kind in (b"source", Source), (b"sink", Sink):
    request.request_handlers.register(b"flow." + name, kind, info="read")
'''


def _block(offset: int, count: int) -> bytes:
    """What a client writes at *offset* of *count* bytes, up to 64 KiB of it."""
    start = offset % len(_BYTES)
    return _BYTES[start : start + min(65536, count - offset)]


class GatedSocket:
    """A socket from which a client reads only while it is open.

    :ivar reading: set while it is open.
    """

    def __init__(self, made: socket.socket):
        self._socket = made
        self.reading = threading.Event()
        self.reading.set()

    def recv(self, count: int) -> bytes:
        """What comes; not before it may be read."""
        data = self._socket.recv(count)
        # What has been read already is passed on later.
        self.reading.wait()
        return data

    def __getattr__(self, name: str):
        return getattr(self._socket, name)


class FlowCase(LoginCase):
    """A service with the requests of the plug-in, and a server."""

    def start(self, *options: str, **configuration: object) -> None:
        """Start both."""
        source = _PLUGIN.format(seconds=SECONDS, directory=self.test_dir)
        self.add_plugin("lpserve_flow", source)
        # Also for who serves where there is no service.
        self.configure(directory=self.root, allow_writes=True, **configuration)
        self.start_service(*options)
        self.start_server()

    # -- a client of ours ------------------------------------------------------

    def connect(self):
        """Log in as alice with paramiko; the ``sock`` is a `GatedSocket`."""
        client = self.open_transport(GatedSocket(self.connect_raw()))
        # What is not read any more is read at the end: the threads wait for it.
        self.addCleanup(client.sock.reading.set)
        self.present_key(client, "alice")
        return client

    def hello(self, session) -> None:
        """One round trip through a session of paramiko's."""
        session.sendall(b"hello\n")
        self.assertEqual(HELLO, session.recv(6))

    def end_session(self, session) -> None:
        """Send no more: it ends well, and nothing more comes."""
        session.shutdown_write()
        self.assertEqual((0, b"", ""), self.end(session))

    def end_well(self, process) -> None:
        """End a client by closing its stdin; it has nothing to complain of."""
        process.stdin.close()
        self.assertEqual(0, process.wait(DEADLINE))
        self.assertEqual(b"", process.stderr.read())

    # -- much data -------------------------------------------------------------

    def worker(self) -> int:
        """The pid of the only worker that serves."""
        (pid,) = wait_until(lambda: self.workers_for("alice"), "there is a worker")
        return pid

    def begin_sink(self, process, count: int) -> None:
        """Have a worker take so many bytes from a client."""
        os.write(process.stdin.fileno(), b"flow.sink\x01%d\n" % count)
        self.assertEqual(b"go\n", read_line(process.stdout.fileno()))

    def written_by(self, pid: int) -> int:
        """How many bytes the process has written."""
        with open(f"/proc/{pid}/io") as io:
            return int(re.search(r"wchar: (\d+)", io.read())[1])

    def wait_until_held(self, name: str = "held") -> None:
        """Wait until a `source` with this *name* could not write for `SECONDS`."""
        path = os.path.join(self.test_dir, name)
        wait_until(lambda: os.path.exists(path), "the worker is held back")

    def write_until_held(self, descriptor: int, count: int) -> int:
        """Write for a `sink` until there is no room for `SECONDS`; how much it was.

        From then on *descriptor* does not block.
        """
        done = 0
        os.set_blocking(descriptor, False)
        while select.select([], [descriptor], [], SECONDS)[1]:
            done += os.write(descriptor, _block(done, count))
            self.assertLess(done, count, "nobody has held back the client")
        return done

    def write_flow(self, descriptor: int, count: int, done: int = 0) -> bytes:
        """Write the rest for a `sink`; what it has to answer."""
        while done < count:
            if not select.select([], [descriptor], [], DEADLINE)[1]:
                raise AssertionError(f"the last {count - done} bytes are not taken")
            done += os.write(descriptor, _block(done, count))
        digest, done = hashlib.sha1(), 0
        while done < count:
            block = _block(done, count)
            digest.update(block)
            done += len(block)
        return f"ok\x01{digest.hexdigest()}\n".encode()

    def hold(self, pid: int) -> None:
        """Stop a process until `wake`, or until the test ends."""
        os.kill(pid, signal.SIGSTOP)
        self.addCleanup(self.wake, pid)

    def wake(self, pid: int) -> None:
        """Have a stopped process go on, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def read_some(self, descriptor: int, most: int = 1 << 20) -> bytes:
        """What comes next; nothing at the end."""
        if not select.select([descriptor], [], [], DEADLINE)[0]:
            raise AssertionError("nothing comes any more, not even the end")
        return os.read(descriptor, most)

    def read_rest(self, process) -> bytes:
        """All that comes from a client until its end."""
        return b"".join(iter(lambda: self.read_some(process.stdout.fileno()), b""))

    def read_flow(self, descriptor: int, count: int) -> None:
        """Read all that a `source` sends."""
        self._read_flow(lambda most: self.read_some(descriptor, most), count)

    def receive_flow(self, session, count: int) -> None:
        """The same from a session of paramiko's."""
        self._read_flow(session.recv, count)

    def _read_flow(self, read, count: int) -> None:
        digest = hashlib.sha1()
        while count:
            data = read(min(count, 1 << 20))
            self.assertNotEqual(b"", data, f"it ended {count} bytes early")
            digest.update(data)
            count -= len(data)
        answer = f"ok\x01{digest.hexdigest()}\n".encode()
        found = b""
        while len(found) < len(answer):
            data = read(len(answer) - len(found))
            self.assertNotEqual(b"", data)
            found += data
        self.assertEqual(answer, found)

    def assertSameBytes(self, expected: bytes, found: bytes) -> None:
        """They are the same; where not, nobody wants to see all of them."""
        self.assertEqual(len(expected), len(found))
        self.assertEqual(hashlib.sha1(expected).digest(), hashlib.sha1(found).digest())

    def sockets(self) -> int:
        """How many sockets the server has open."""
        return sum("socket:" in each for each in self.server.descriptors().values())

    # -- the memory of the server ----------------------------------------------

    def peak(self) -> int:
        """The most memory that the server has had since `forget_peak`."""
        with open(f"/proc/{self.server.pid}/status") as status:
            return int(re.search(r"VmHWM:\s+(\d+) kB", status.read())[1]) << 10

    def forget_peak(self) -> int:
        """Have `peak` start anew, from what is returned."""
        with open(f"/proc/{self.server.pid}/clear_refs", "w") as clear:
            clear.write("5")
        return self.peak()

    def assertMemoryFlat(self, before: int) -> None:
        """The server has never had much more than *before*."""
        self.assertLess(self.peak() - before, BOUND)
