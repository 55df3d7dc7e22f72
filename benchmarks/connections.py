# SPDX-License-Identifier: GPL-2.0-or-later

"""Connections, each to a server of its own, all handled alike.

By this process itself, through one of the doors; programs.py has those by a program
that is started for it. One thread can drive many: each tells the descriptor that it
waits for.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from stage import (
    DEADLINE,
    FIFO,
    HELLO,
    SOCKET,
    USER,
    BenchmarkError,
    Service,
    conversation,
)

DOORS = (SOCKET, FIFO)
#: The first line of the third version of the protocol.
_VERSION_THREE = b"bzr message 3 (bzr 1.6)\n"


class Greeting(NamedTuple):
    """``hello``, how the answer begins and how it ends."""

    request: bytes
    beginning: bytes
    end: bytes


#: In the first version of the protocol.
AS_LINE = Greeting(b"hello\n", HELLO, HELLO)
#: In the third, which Breezy's clients speak; the answer tells its version.
AS_MESSAGE = Greeting(
    _VERSION_THREE + b"\0\0\0\x02de" + b"s\0\0\0\x09l5:helloe" + b"e",
    _VERSION_THREE,
    b"oSs\0\0\0\x09l2:ok1:2ee",
)


class Connection:
    """A connection that says ``hello``, is idle and ends.

    It is begun when it is made. As `descriptor` becomes readable `hear` is to be
    called until the answer is there; after `hang_up`, `ended`, until it has.

    :ivar descriptor: what it waits for.
    :ivar began, came: when it was, and when the first byte of the answer was
        there, in seconds of `time.perf_counter`.
    """

    descriptor: int
    #: What all of them say.
    greeting = AS_LINE

    def __init__(self) -> None:
        self.came: float | None = None
        self._answer = b""
        self.began = time.perf_counter()

    @property
    def took(self) -> float:
        """Seconds from the request to the first byte of the answer."""
        assert self.came is not None
        return self.came - self.began

    def hear(self) -> bool:
        """Go on, as `descriptor` is ready; whether the whole answer is there."""
        came = time.perf_counter()
        data = os.read(self.descriptor, 4096)
        if not data:
            raise BenchmarkError(f"closed without an answer{self.why()}")
        if self.came is None:
            self.came = came
        self._answer += data
        return self.is_answer(self._answer)

    def is_answer(self, data: bytes) -> bool:
        """Whether *data* is all of the answer; half of it is none.

        :raises BenchmarkError: if it is not its beginning either.
        """
        beginning = self.greeting.beginning
        if data[: len(beginning)] != beginning[: len(data)]:
            raise BenchmarkError(f"the answer to hello is {data!r}")
        return data.endswith(self.greeting.end)

    def why(self) -> str:
        """What is known of why it failed."""
        return ""

    def wait(self) -> float:
        """Wait for the answer; seconds from the request to its first byte."""
        self._until(self.hear)
        return self.took

    def finish(self) -> None:
        """Hang up, and wait until the server has ended, and well."""
        try:
            self.hang_up()
            self._until(self.ended)
        finally:
            self.close()

    def _until(self, step: Callable[[], bool]) -> None:
        # Before the worker has opened its end a read would see an end of file.
        poller = select.poll()
        watched = -1
        while True:
            if watched != self.descriptor:
                if watched >= 0:
                    poller.unregister(watched)
                watched = self.descriptor
                poller.register(watched, select.POLLIN)
            if not poller.poll(DEADLINE * 1000):
                raise BenchmarkError(f"nothing came for {DEADLINE:.0f} s{self.why()}")
            if step():
                return

    def hang_up(self) -> None:
        """Let the server see the end of our requests."""
        raise NotImplementedError(self.hang_up)

    def ended(self) -> bool:
        """Go on, as `descriptor` is ready; whether the server has ended, well."""
        raise NotImplementedError(self.ended)

    def close(self) -> None:
        """Leave it as it is; may be called again."""
        raise NotImplementedError(self.close)


def begin(service: Service, door: str, user: str = USER) -> Connection:
    """A connection of this process through *door*."""
    if door == FIFO:
        return FifoConnection(service.directory, user)
    return SocketConnection(service.directory, user)


def _check_end(answer: Sequence[str]) -> None:
    if list(answer) != ["exit", "0"]:
        raise BenchmarkError(f"a worker ended with {' '.join(answer)}")


class FifoConnection(Connection):
    """Through the control FIFO of the service at *directory*.

    :param wait: open the FIFOs so that they block, as soon as the worker has too;
        otherwise they are for those who wait for what they have.
    :ivar moments: of the answer to the request and of the opened FIFOs.
    :ivar ends: our descriptors of stdin, stdout and stderr.
    """

    def __init__(self, directory: str, user: str = USER, wait: bool = False):
        super().__init__()
        self.moments: list[float] = []
        self.ends: list[int] = []
        self._flags = 0 if wait else os.O_NONBLOCK
        self._conversation = conversation.Conversation(directory)
        try:
            self._conversation.send(["spawn", user], time.monotonic() + DEADLINE)
        except BaseException:
            self.close()
            raise
        self.descriptor = self._conversation.reply

    def hear(self) -> bool:
        if self.ends:
            return super().hear()
        if self.open():
            os.write(self.ends[0], self.greeting.request)
        return False

    def open(self) -> bool:
        """Open the FIFOs if they are there."""
        answer = self._conversation.read_answer()
        if answer is None:
            return False
        self.moments.append(time.perf_counter())
        if answer[0] != "ok":
            raise BenchmarkError(f"the service says {' '.join(answer)}")
        self.ends.append(os.open(answer[2], os.O_WRONLY))
        for path in answer[3:]:
            self.ends.append(os.open(path, os.O_RDONLY | self._flags))
        self.moments.append(time.perf_counter())
        self.descriptor = self.ends[1]
        return True

    def wait_open(self) -> None:
        """Wait until the FIFOs are open; nothing is said through them."""
        self._until(self.open)

    def hang_up(self) -> None:
        while self.ends:
            os.close(self.ends.pop())
        self.descriptor = self._conversation.reply

    def ended(self) -> bool:
        answer = self._conversation.read_answer()
        if answer is None:
            return False
        self.close()
        _check_end(answer)
        return True

    def close(self) -> None:
        while self.ends:
            os.close(self.ends.pop())
        self._conversation.close()


class SocketConnection(Connection):
    """Through the socket of the service at *directory*, with pipes of our own.

    ``hello`` is in the pipe before the worker is: with sshd it may be, too.

    :ivar moments: of the service's answer to the request, if that was waited for.
    """

    def __init__(self, directory: str, user: str = USER):
        super().__init__()
        self.moments: list[float] = []
        self._said = b""
        self._ours: list[int] = []
        self._link = socket.socket(socket.AF_UNIX)
        theirs: list[int] = []
        try:
            for number in range(3):
                ends = os.pipe()
                theirs.append(ends[0 if number == 0 else 1])
                self._ours.append(ends[1 if number == 0 else 0])
            os.write(self._ours[0], self.greeting.request)
            self._link.connect(directory + "/socket")
            attached = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", theirs))
            self._link.sendmsg([b"spawn %s\n" % user.encode()], [attached])
        except BaseException:
            self.close()
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        self.descriptor = self._ours[1]

    def wait_ok(self) -> None:
        """Wait for the ``ok``, which nobody needs to do."""
        while b"\n" not in self._said:
            self._said += self._link.recv(4096)
        self.moments.append(time.perf_counter())

    def why(self) -> str:
        with contextlib.suppress(OSError):
            self._said += self._link.recv(4096, socket.MSG_DONTWAIT)
        return f": {self._said.decode(errors='replace').strip()}"

    def hang_up(self) -> None:
        while self._ours:
            os.close(self._ours.pop())
        self.descriptor = self._link.fileno()

    def ended(self) -> bool:
        data = self._link.recv(4096)
        self._said += data
        lines = self._said.decode().splitlines()
        if data and (len(lines) < 2 or not self._said.endswith(b"\n")):
            return False
        self.close()
        if len(lines) != 2 or not lines[0].startswith("ok "):
            raise BenchmarkError(f"the service says {self._said!r}")
        _check_end(lines[1].split())
        return True

    def close(self) -> None:
        while self._ours:
            os.close(self._ours.pop())
        self._link.close()


def say_hello(start: Callable[[], Connection]) -> Connection:
    """One connection that was answered and has ended well."""
    made = start()
    try:
        made.wait()
    finally:
        made.finish()
    return made


def hold(start: Callable[[], Connection], count: int) -> list[Connection]:
    """*count* connections that have their answers, and are idle.

    They are begun some at a time: what many at once wait is another question.
    """
    held: list[Connection] = []
    try:
        while len(held) < count:
            some = [start() for _ in range(min(16, count - len(held)))]
            held += some
            for each in some:
                each.wait()
    except BaseException:
        for each in held:
            each.close()
        raise
    return held


def finish_all(held: Sequence[Connection]) -> None:
    """Let them end at once, and wait until they have."""
    try:
        for each in held:
            each.hang_up()
        for each in held:
            each.finish()
    finally:
        for each in held:
            each.close()
