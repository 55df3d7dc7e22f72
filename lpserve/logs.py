# SPDX-License-Identifier: GPL-2.0-or-later

"""Where the long-running processes log: standard error, without waiting for it."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import select
import stat
from typing import Any

log = logging.getLogger("lpserve")

#: Bytes after which the log of a daemon is begun anew.
_MAX_LOG = 4 << 20
# C0, DEL, C1, and what ends a line for str.splitlines and for some pagers.
_control = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def log_to_stderr() -> None:
    """Have what lpserve logs written to standard error."""
    handler = PatientHandler()
    handler.setFormatter(LineFormatter())
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel(logging.INFO)


class PatientHandler(logging.Handler):
    """Writes to standard error, but never waits for whoever reads it.

    Lines that would have to wait are left out and counted, and so are warnings
    beyond `MOST` in a second: anybody who may write requests can cause them.
    """

    MOST = 100

    def __init__(self) -> None:
        super().__init__()
        self._left_out = 0
        self._second = 0
        self._warnings = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, or leave it out."""
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
                # As much as a pipe takes that is ready (pipe(7)).
                if len(data) > select.PIPE_BUF:
                    data = data[: select.PIPE_BUF - 1] + b"\n"
            os.write(2, data)
        except OSError:
            return False
        return True


class LineFormatter(logging.Formatter):
    """The one line that programs wait for stands alone; the others have a time.

    What more lines a record has, as a traceback does, are indented: whatever it tells
    of others, none of them can be taken for another record.
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
    """*text* with its lines after the first indented."""
    return "\n  ".join(map(_escaped, text.rstrip("\n").split("\n")))


def _escaped(text: str) -> str:
    """*text* without what could end its line, or move a terminal's cursor."""
    if text.isprintable():
        return text
    return _control.sub(
        lambda match: match.group().encode("unicode_escape").decode(), text
    )


class LogFile:
    """The file that standard error is, if it is one: kept short, and there.

    :param path: of it; None: as we were started, under the name that it has now.
    """

    def __init__(self, path: str | None):
        self._path = path if path is not None else _name_of_stderr()

    def roll_over(self) -> None:
        """Begin it anew when it has grown long, if it is the log of a daemon."""
        path = self._path
        if path is None or not path.endswith(".log"):
            return
        with contextlib.suppress(OSError):
            if os.fstat(2).st_size >= _MAX_LOG and self._is_there(path):
                os.rename(path, path + ".old")
                self._open(path)

    def reopen(self) -> None:
        """Open it anew if it was moved away or removed."""
        path = self._path
        try:
            if path is not None and not self._is_there(path):
                self._open(path)
                log.info("log reopened")
        except OSError as error:
            log.error("cannot open %s anew: %s", path, error.strerror)

    @staticmethod
    def _is_there(path: str) -> bool:
        """Whether *path* still names what standard error is."""
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.stat(path), os.fstat(2))
        return False

    @staticmethod
    def _open(path: str) -> None:
        # Not waiting for a reader, should it be a FIFO by now.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY
        new = os.open(path, flags, 0o600)
        os.set_blocking(new, True)
        os.dup2(new, 2)
        os.close(new)


def _name_of_stderr() -> str | None:
    """The path of the regular file that standard error is, or None."""
    with contextlib.suppress(OSError):
        path = os.readlink("/proc/self/fd/2")
        if stat.S_ISREG(os.fstat(2).st_mode) and LogFile._is_there(path):
            return path
    return None
