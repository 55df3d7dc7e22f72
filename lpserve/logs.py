# SPDX-License-Identifier: GPL-2.0-or-later

"""Logs to standard error without blocking; rotates the log file."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import select
import stat
from typing import Any

log = logging.getLogger("lpserve")

#: Bytes at which the log of a daemon is rotated.
_MAX_LOG = 4 << 20
# C0, DEL, C1, and the other line separators of str.splitlines and some pagers.
_control = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def log_to_stderr() -> None:
    """Write the log records of lpserve to standard error."""
    handler = PatientHandler()
    handler.setFormatter(LineFormatter())
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel(logging.INFO)


class PatientHandler(logging.Handler):
    """Writes to standard error, and never waits for its reader.

    A line that would have to wait is dropped and counted. So are warnings beyond
    `MOST` in a second, because every client can cause warnings.
    """

    MOST = 100

    def __init__(self) -> None:
        super().__init__()
        self._left_out = 0
        self._second = 0
        self._warnings = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, or drop it."""
        if int(record.created) != self._second:
            self._second, self._warnings = int(record.created), 0
        self._warnings += record.levelno == logging.WARNING
        if record.levelno == logging.WARNING and self._warnings > self.MOST:
            self._left_out += 1
            return
        text = self.format(record) + "\n"
        if self._left_out:
            text = f"({self._left_out} lines were left out)\n{text}"
        if self._write(text.encode("utf-8", "backslashreplace")):
            self._left_out = 0
        else:
            self._left_out += 1

    @staticmethod
    def _write(data: bytes) -> bool:
        try:
            if not stat.S_ISREG(os.fstat(2).st_mode):
                poller = select.poll()
                poller.register(2, select.POLLOUT)
                if not poller.poll(0):
                    return False
                # A pipe that is ready takes PIPE_BUF bytes (pipe(7)).
                if len(data) > select.PIPE_BUF:
                    data = data[: select.PIPE_BUF - 1] + b"\n"
            os.write(2, data)
        except OSError:
            return False
        return True


class LineFormatter(logging.Formatter):
    """Puts time and level before each message, and indents continuation lines.

    The indentation keeps a traceback that quotes a client's data from forging a
    record. The line "Listening on ...", which programs wait for, has no time.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        if str(record.msg).startswith("Listening on "):
            return record.getMessage()
        return _lines(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        return "  " + _lines(super().formatException(ei))


def _lines(text: str) -> str:
    """*text* with control characters escaped and its further lines indented."""
    return "\n  ".join(map(_escaped, text.rstrip("\n").split("\n")))


def _escaped(text: str) -> str:
    """*text* with the characters escaped that end a line or control a terminal."""
    if text.isprintable():
        return text
    return _control.sub(
        lambda match: match.group().encode("unicode_escape").decode(), text
    )


class LogFile:
    """The log file behind standard error, if there is one: rotates and reopens it.

    :param path: its path; None: that of the file that standard error is open on.
    """

    def __init__(self, path: str | None):
        self._path = path if path is not None else _name_of_stderr()

    def roll_over(self) -> None:
        """Rotate the file if it is the log of a daemon and has grown large."""
        path = self._path
        if path is None or not path.endswith(".log"):
            return
        with contextlib.suppress(OSError):
            if os.fstat(2).st_size >= _MAX_LOG and self._is_there(path):
                os.rename(path, path + ".old")
                self._open(path)

    def reopen(self) -> None:
        """Open the path again if the file was moved or removed."""
        path = self._path
        try:
            if path is not None and not self._is_there(path):
                self._open(path)
                log.info("log reopened")
        except OSError as error:
            log.error("cannot open %s anew: %s", path, error.strerror)

    @staticmethod
    def _is_there(path: str) -> bool:
        """Whether *path* still names the file that standard error is open on."""
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.stat(path), os.fstat(2))
        return False

    @staticmethod
    def _open(path: str) -> None:
        # Without waiting for a reader if the path is a FIFO now.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY
        new = os.open(path, flags, 0o600)
        os.set_blocking(new, True)
        os.dup2(new, 2)
        os.close(new)


def _name_of_stderr() -> str | None:
    """The path of the regular file that standard error is open on, or None."""
    with contextlib.suppress(OSError):
        path = os.readlink("/proc/self/fd/2")
        if stat.S_ISREG(os.fstat(2).st_mode) and LogFile._is_there(path):
            return path
    return None
