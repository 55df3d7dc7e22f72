# SPDX-License-Identifier: GPL-2.0-or-later

"""Connections, each to a server of its own, all handled alike.

By this process itself, through the socket, or by a program that is started for it, as
sshd does. One thread can drive many: each tells the descriptor that it waits for.
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
    """What is said first, how the answer begins and how it ends."""

    request: bytes
    beginning: bytes
    end: bytes


#: ``hello`` in the first version of the protocol.
AS_LINE = Greeting(b"hello\n", HELLO, HELLO)
#: In the third, which Breezy's clients speak; the answer tells its version.
AS_MESSAGE = Greeting(
    _VERSION_THREE + b"\0\0\0\x02de" + b"s\0\0\0\x09l5:helloe" + b"e",
    _VERSION_THREE,
    b"oSs\0\0\0\x09l2:ok1:2ee",
)
#: Where others speak first.
NOTHING = Greeting(b"", b"", b"")


class Connection:
    """A connection that is greeted, is idle and ends.

    It is begun when it is made. As `descriptor` becomes readable `hear` is to be
    called until the answer is there; after `hang_up`, `ended`, until it has.

    :ivar descriptor: what it waits for: at first, what the server writes.
    :ivar writes: what the server reads.
    :ivar pid: of the program, or of the worker when that is known.
    :ivar began, came: when it was, and when the first byte of the answer was
        there, in seconds of `time.perf_counter`.
    """

    #: What all of them say that are told nothing else.
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
            # hello is in the pipe before the server is: with sshd it may be, too.
            os.write(self.writes, self.greeting.request)
            self._start(stdin, stdout)
        except BaseException:
            self.close()
            raise
        finally:
            os.close(stdin)
            os.close(stdout)

    def _start(self, stdin: int, stdout: int) -> None:
        """Have a server started with these."""
        raise NotImplementedError(self._start)

    @property
    def took(self) -> float:
        """Milliseconds from the request to the first byte of the answer."""
        return (self.came - self.began) * 1000

    def hear(self) -> bool:
        """Go on, as `descriptor` is ready; whether the whole answer is there."""
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
        """What is known of why it failed."""
        return ""

    def wait(self) -> None:
        """Wait for the answer."""
        self._until(self.hear)

    def finish(self) -> None:
        """Hang up, and wait until the server has ended, and well."""
        try:
            self.hang_up()
            self._until(self.ended)
        finally:
            self.close()

    def _until(self, step: Callable[[], bool]) -> None:
        over = False
        while not over:
            poller = select.poll()
            poller.register(self.descriptor, select.POLLIN)
            if not poller.poll(DEADLINE * 1000):
                raise BenchmarkError(f"nothing came for {DEADLINE:.0f} s{self.why()}")
            over = step()

    def hang_up(self) -> None:
        """Let the server see the end of our requests."""
        raise NotImplementedError(self.hang_up)

    def ended(self) -> bool:
        """Go on, as `descriptor` is ready; whether the server has ended, well."""
        raise NotImplementedError(self.ended)

    def close(self) -> None:
        """Leave it as it is; may be called again."""
        while self._open:
            os.close(self._open.pop())


class SocketConnection(Connection):
    """Through the socket of *service*, with pipes of our own."""

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
        """Wait until it is known."""
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
        if data and self._said.count(b"\n") < 2:
            return False
        self.close()
        if not self._said.endswith(b"\nexit 0\n"):
            raise BenchmarkError(f"the service says {self._said!r}")
        return True

    def close(self) -> None:
        super().close()
        self._link.close()


class Program(Connection):
    """Through a program that is started for it, from before its exec.

    :param words: what is executed.
    :param farewell: what it is told before the end of file.
    :param errors: a file to which its standard error is appended.
    :ivar cpu: seconds that it took, with its children; known when it has ended.
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
        self._pidfd = -1
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
        if self.writes in self._open:
            # One that has ended is found out when it is waited for.
            with contextlib.suppress(BrokenPipeError):
                os.write(self.writes, self._farewell)
            self._open.remove(self.writes)
            os.close(self.writes)

    def ended(self) -> bool:
        if self._pidfd < 0:
            if not os.read(self.descriptor, 65536):
                self._pidfd = self.descriptor = os.pidfd_open(self.pid)
                self._open.append(self._pidfd)
            return False
        _, status, usage = os.wait4(self.pid, 0)
        self.pid = 0
        self.cpu = usage.ru_utime + usage.ru_stime
        self.close()
        if code := os.waitstatus_to_exitcode(status):
            raise BenchmarkError(f"status {code}{self.why()}")
        return True

    def close(self) -> None:
        super().close()
        if self.pid:  # it was not waited for: something has gone wrong
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0


def say_hello(start: Callable[[], Connection]) -> Connection:
    """One connection that was answered and has ended well."""
    made = start()
    try:
        made.wait()
    finally:
        made.finish()
    return made


@contextlib.contextmanager
def hold(start: Callable[[], Connection], count: int) -> Iterator[list[Connection]]:
    """*count* connections that have their answers, and are idle; they end with this.

    They are begun some at a time: what many at once wait is another question.
    """
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
