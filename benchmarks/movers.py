# SPDX-License-Identifier: GPL-2.0-or-later

"""A service and a worker that only moves bytes, for relay.py.

What the client's relay is worth is seen where nobody is slower than it: a smart
server would be. So this process answers the client as the service does, through
either door, and the "worker" is a process that swallows all that comes, or writes
as much as it can. It never speaks the smart server's protocol.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import traceback
from collections.abc import Callable, Collection, Sequence

from stage import DEADLINE, FIFO, SOCKET, BenchmarkError

from lpserve import wire
from lpserve.paths import RuntimeDirectory, remove_connection

#: What is read and written at once: what a pipe holds.
_BLOCK = 1 << 16
#: Of a worker: called with the descriptors of its standard input and output.
Work = Callable[[int, int], None]


def swallow(descriptor: int, wanted: int) -> None:
    """Read up to the end of file."""
    count = 0
    while data := os.read(descriptor, _BLOCK):
        count += len(data)
    if count != wanted:
        raise BenchmarkError(f"{count} of {wanted} bytes came")


def produce(descriptor: int, wanted: int) -> None:
    """Write *wanted* bytes, and the end of file."""
    block = memoryview(os.urandom(_BLOCK))
    while wanted:
        wanted -= os.write(descriptor, block[: min(_BLOCK, wanted)])
    end_writing(descriptor)


def end_writing(descriptor: int) -> None:
    """Let whoever reads see the end of file; others may have a socket open, too."""
    with contextlib.suppress(OSError):
        made = socket.socket(fileno=os.dup(descriptor))
        with made:
            made.shutdown(socket.SHUT_WR)
    os.close(descriptor)


class Child:
    """A process that runs a function, and has no descriptors but those it needs."""

    def __init__(self, work: Callable[[], None], keep: Collection[int]):
        self.pid = os.fork()
        if self.pid:
            return
        status = 1
        try:
            # A Ctrl-C is for our parent, which ends us.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            for number in (signal.SIGTERM, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            for number in list(map(int, os.listdir("/proc/self/fd"))):
                if number > 2 and number not in keep:
                    with contextlib.suppress(OSError):  # the listing's own
                        os.close(number)
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def wait(self) -> None:
        """Wait for its end.

        :raises BenchmarkError: if it did not succeed.
        """
        pid, self.pid = self.pid, 0
        if pid and os.waitpid(pid, 0)[1]:
            raise BenchmarkError("a process that moves bytes has failed")

    def kill(self) -> None:
        """End it, whatever it does; may be called again."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0


class FakeService:
    """The service's end of one door, in a new directory at *path*."""

    def __init__(self, path: str, door: str):
        self._directory = RuntimeDirectory(path)
        self._directory.prepare()
        self._door = door
        self._link: socket.socket | None = None
        self._reply = -1
        if door == SOCKET:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(path + "/socket")
            os.chmod(path + "/socket", 0o600)
            self._listener.listen()
            self._waits = self._listener.fileno()
        else:
            os.mkfifo(self._directory.control, 0o600)
            flags = os.O_RDWR | os.O_NONBLOCK
            self._waits = os.open(self._directory.control, flags)

    def serve(self, work: Work, keep: Collection[int]) -> Child:
        """Give the client that asks next a worker that does *work*.

        :param keep: what it needs besides its standard input and output.
        """
        if not select.select([self._waits], [], [], DEADLINE)[0]:
            raise BenchmarkError("the client asks for nothing")
        if self._door == SOCKET:
            return self._serve_socket(work, keep)
        return self._serve_fifo(work, keep)

    def _serve_socket(self, work: Work, keep: Collection[int]) -> Child:
        self._link, _ = self._listener.accept()
        _, stdio, _, _ = socket.recv_fds(self._link, wire.MAX_REQUEST, 4)
        child = Child(lambda: work(stdio[0], stdio[1]), {*stdio, *keep})
        for descriptor in stdio:
            os.close(descriptor)
        self._link.sendall(wire.encode_answer("ok", child.pid))
        return child

    def _serve_fifo(self, work: Work, keep: Collection[int]) -> Child:
        request = wire.parse_request(os.read(self._waits, wire.MAX_REQUEST).strip())
        assert request.reply is not None
        place = os.path.join(self._directory.replies, request.reply)
        self._reply = os.open(place, os.O_WRONLY)
        made = self._directory.make_connection()

        def serve() -> None:
            stdout, stderr = [os.open(path, os.O_WRONLY) for path in made.fifos[1:]]
            remove_connection(made.path)
            os.close(stderr)
            work(made.stdin, stdout)

        child = Child(serve, {made.stdin, *keep})
        made.close()
        self.answer("ok", child.pid, *made.fifos)
        return child

    def answer(self, *words: object) -> None:
        """Tell the client."""
        line = wire.encode_answer(*words)
        if self._link is not None:
            self._link.sendall(line)
        else:
            os.write(self._reply, line)

    def close(self) -> None:
        """Close the door, and the connection."""
        if self._link is not None:
            self._link.close()
        if self._reply >= 0:
            os.close(self._reply)
        if self._door == FIFO:
            os.close(self._waits)
        else:
            self._listener.close()


def quietly(children: Sequence[Child]) -> None:
    """End what is left of *children*."""
    for child in children:
        child.kill()
