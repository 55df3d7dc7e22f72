# SPDX-License-Identifier: GPL-2.0-or-later

"""Connections by a program that is started for each of them, as sshd does."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Sequence

from connections import Connection
from stage import BenchmarkError


class Program(Connection):
    """Through a program that is started for it, from before its exec.

    :param words: what is executed.
    :param greeting: what it is told if not `Connection.greeting`; b"" where it speaks
        first.
    :param farewell: what it is told before the end of file.
    :param answers: whether some bytes are its whole answer; as `is_answer`.
    :param errors: a file to which its standard error is appended.
    :ivar cpu: seconds that it took, with its children; known when it has ended.
    """

    def __init__(
        self,
        words: Sequence[str],
        environ: dict[str, str],
        greeting: bytes | None = None,
        farewell: bytes = b"",
        answers: Callable[[bytes], bool] | None = None,
        errors: str = os.devnull,
    ):
        self._words = words
        self._farewell = farewell
        self._answers = answers
        self._errors = errors
        self.cpu = 0.0
        self._pidfd = -1
        stdin, self._write = os.pipe()
        self._read, stdout = os.pipe()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        try:
            super().__init__()
            self.pid = os.posix_spawnp(
                words[0],
                list(words),
                environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, stdin, 0),
                    (os.POSIX_SPAWN_DUP2, stdout, 1),
                    (os.POSIX_SPAWN_OPEN, 2, errors, flags, 0o600),
                ],
                setsigdef=[signal.SIGPIPE],
            )
        except BaseException:
            for descriptor in (self._write, self._read):
                os.close(descriptor)
            raise
        finally:
            os.close(stdin)
            os.close(stdout)
        self.descriptor = self._read
        with contextlib.suppress(BrokenPipeError):  # the answer will be missing
            os.write(
                self._write, self.greeting.request if greeting is None else greeting
            )

    def is_answer(self, data: bytes) -> bool:
        return (self._answers or super().is_answer)(data)

    def why(self) -> str:
        with contextlib.suppress(OSError), open(self._errors, "rb") as file:
            said = file.read()[-2000:].decode(errors="replace").strip()
            return f" from {' '.join(self._words)}: {said}"
        return f" from {' '.join(self._words)}"

    def hang_up(self) -> None:
        if self._write >= 0:
            # One that has ended is found out when it is waited for.
            with contextlib.suppress(BrokenPipeError):
                os.write(self._write, self._farewell)
            os.close(self._write)
            self._write = -1

    def ended(self) -> bool:
        if self._pidfd < 0:
            if os.read(self._read, 65536):
                return False
            self._pidfd = self.descriptor = os.pidfd_open(self.pid)
            return False
        _, status, usage = os.wait4(self.pid, 0)
        self.pid = 0
        self.cpu = usage.ru_utime + usage.ru_stime
        self.close()
        code = os.waitstatus_to_exitcode(status)
        if code:
            raise BenchmarkError(f"status {code}{self.why()}")
        return True

    def close(self) -> None:
        for descriptor in (self._write, self._read, self._pidfd):
            if descriptor >= 0:
                os.close(descriptor)
        self._write = self._read = self._pidfd = -1
        if self.pid:  # it was not waited for: something has gone wrong
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0
