# SPDX-License-Identifier: GPL-2.0-or-later

"""Connections to smart servers: through the socket, or by a program, as with sshd.

One thread can drive many connections: each has the descriptor that it waits for.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from stage import DEADLINE, HELLO, USER, BenchmarkError, Service

#: The first line of the third version of the protocol.
_VERSION_THREE = b"bzr message 3 (bzr 1.6)\n"


class Greeting(NamedTuple):
    """The first request, and how the answer begins and ends."""

    request: bytes
    beginning: bytes
    end: bytes


#: ``hello`` in the first version of the protocol.
AS_LINE = Greeting(b"hello\n", HELLO, HELLO)
#: ``hello`` in the third version, which Breezy's clients use.
AS_MESSAGE = Greeting(
    _VERSION_THREE + b"\0\0\0\x02de" + b"s\0\0\0\x09l5:helloe" + b"e",
    _VERSION_THREE,
    b"oSs\0\0\0\x09l2:ok1:2ee",
)
#: For servers that speak first.
NOTHING = Greeting(b"", b"", b"")


class Connection:
    """A connection: the constructor begins it and sends the greeting.

    Each time that `descriptor` is readable, call `hear` until it returns true; after
    `hang_up`, call `ended` until that does. Subclasses define `_start`, `hang_up` and
    `ended`.

    :ivar descriptor: the descriptor to wait for: at first, the server's output.
    :ivar writes: the server's input.
    :ivar pid: of the program, or of the worker when that is known.
    :ivar began, came: when it began, and when the first byte of the answer came, in
        seconds of `time.perf_counter`.
    """

    #: The default greeting.
    usual = AS_LINE

    def __init__(self, greeting: Greeting | None = None):
        self.greeting = self.usual if greeting is None else greeting
        self.came = 0.0
        self.pid = 0
        self._answer = b""
        stdin, self.writes = os.pipe()
        self.descriptor, stdout = os.pipe()
        self._open = [self.writes, self.descriptor]
        self.began = time.perf_counter()
        try:
            # The request is there before the server, as it may be with sshd.
            os.write(self.writes, self.greeting.request)
            self._start(stdin, stdout)
        except BaseException:
            self.close()
            raise
        finally:
            os.close(stdin)
            os.close(stdout)

    @property
    def took(self) -> float:
        """Milliseconds from the request to the first byte of the answer."""
        return (self.came - self.began) * 1000

    def hear(self) -> bool:
        """Read from `descriptor`; whether the answer is complete."""
        came = time.perf_counter()
        data = os.read(self.descriptor, 4096)
        if not data:
            raise BenchmarkError(f"closed without an answer{self.why()}")
        self.came = self.came or came
        self._answer += data
        beginning = self.greeting.beginning
        if self._answer[: len(beginning)] != beginning[: len(self._answer)]:
            raise BenchmarkError(f"the answer is {self._answer!r}")
        return self._answer.endswith(self.greeting.end)

    def why(self) -> str:
        """The reason of a failure, as far as it is known, to be appended to a text."""
        return ""

    def wait(self) -> None:
        """Wait for the answer."""
        self._until(self.hear)

    def finish(self) -> None:
        """Hang up, and wait until the server has ended successfully."""
        try:
            self.hang_up()
            self._until(self.ended)
        finally:
            self.close()

    def _until(self, step: Callable[[], bool]) -> None:
        poller = select.poll()  # select(2) takes no descriptor above 1023
        poller.register(self.descriptor, select.POLLIN)
        while poller.poll(DEADLINE * 1000):
            if step():
                return
        raise BenchmarkError(f"nothing came for {DEADLINE:.0f} s{self.why()}")

    def close(self) -> None:
        """Close all descriptors; may be called again."""
        while self._open:
            os.close(self._open.pop())


class SocketConnection(Connection):
    """A connection through the socket of *service*, by passing it pipes."""

    def __init__(self, service: Service, greeting: Greeting | None = None):
        self._service = service
        self._said = b""
        self._link = socket.socket(socket.AF_UNIX)
        super().__init__(greeting)

    def _start(self, stdin: int, stdout: int) -> None:
        error, stderr = os.pipe()
        self._open.append(error)
        try:
            self._link.connect(self._service.directory + "/socket")
            request = f"spawn {USER}\n".encode()
            socket.send_fds(self._link, [request], [stdin, stdout, stderr])
        finally:
            os.close(stderr)

    def wait_for_pid(self) -> None:
        """Wait until `pid` is known."""
        while b"\n" not in self._said:
            self._said += self._link.recv(4096)
        if not self._said.startswith(b"ok "):
            raise BenchmarkError(f"the service says {self._said!r}")
        self.pid = int(self._said.split()[1])

    def why(self) -> str:
        with contextlib.suppress(OSError):
            self._said += self._link.recv(4096, socket.MSG_DONTWAIT)
        return f": {self._said.decode(errors='replace').strip()}"

    def hang_up(self) -> None:
        super().close()
        self.descriptor = self._link.fileno()

    def ended(self) -> bool:
        data = self._link.recv(4096)
        self._said += data
        if data and self._said.count(b"\n") < 2:  # "ok PID", "exit 0"
            return False
        self.close()
        if not self._said.endswith(b"\nexit 0\n"):
            raise BenchmarkError(f"the service says {self._said!r}")
        return True

    def close(self) -> None:
        super().close()
        self._link.close()


class Program(Connection):
    """A connection to a program that is started for it.

    :param words: the command.
    :param errors: a file to which its standard error is appended.
    :param farewell: its last input before the end of file.
    :ivar cpu: CPU seconds of it and its children, when it has ended.
    """

    def __init__(
        self,
        words: Sequence[str],
        environ: dict[str, str],
        errors: str,
        greeting: Greeting | None = None,
        farewell: bytes = b"",
    ):
        self._words, self._environ, self._errors = words, environ, errors
        self._farewell = farewell
        self.cpu = 0.0
        super().__init__(greeting)

    def _start(self, stdin: int, stdout: int) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self.pid = os.posix_spawnp(
            self._words[0],
            list(self._words),
            self._environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, stdin, 0),
                (os.POSIX_SPAWN_DUP2, stdout, 1),
                (os.POSIX_SPAWN_OPEN, 2, self._errors, flags, 0o600),
            ],
            setsigdef=[signal.SIGPIPE],
        )

    def why(self) -> str:
        with contextlib.suppress(OSError), open(self._errors, "rb") as file:
            said = file.read()[-2000:].decode(errors="replace").strip()
            return f" from {' '.join(self._words)}: {said}"
        return f" from {' '.join(self._words)}"

    def hang_up(self) -> None:
        if self.writes < 0:
            return
        # `ended` reports a program that has ended too early.
        with contextlib.suppress(BrokenPipeError):
            os.write(self.writes, self._farewell)
        self._open.remove(self.writes)
        os.close(self.writes)
        self.writes = -1
        self.descriptor = os.pidfd_open(self.pid)
        self._open.append(self.descriptor)

    def ended(self) -> bool:
        _, status, usage = os.wait4(self.pid, 0)
        self.pid = 0
        self.cpu = usage.ru_utime + usage.ru_stime
        self.close()
        if code := os.waitstatus_to_exitcode(status):
            raise BenchmarkError(f"status {code}{self.why()}")
        return True

    def close(self) -> None:
        super().close()
        if self.pid:  # an error came before `ended`
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0


def say_hello(start: Callable[[], Connection]) -> Connection:
    """Make one connection, wait for its answer and its end."""
    made = start()
    try:
        made.wait()
    finally:
        made.finish()
    return made


@contextlib.contextmanager
def hold(start: Callable[[], Connection], count: int) -> Iterator[list[Connection]]:
    """Keep *count* idle connections, begun 16 at a time."""
    with contextlib.ExitStack() as stack:
        held: list[Connection] = []
        while len(held) < count:
            for _ in range(min(16, count - len(held))):
                held.append(start())
                stack.callback(held[-1].close)
            for each in held[-16:]:
                if not each.came:
                    each.wait()
        yield held
        for each in held:
            each.hang_up()
        for each in held:
            each.finish()
