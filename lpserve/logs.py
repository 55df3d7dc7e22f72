# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""Where the long-running processes log: standard error, without waiting for it."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import stat

log = logging.getLogger("lpserve")

#: Bytes after which the log of a daemon is begun anew.
_MAX_LOG = 4 << 20


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
    """The one line that programs wait for stands alone; the others have a time."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        if str(record.msg).startswith("Listening on "):
            return record.getMessage()
        return super().format(record)


def roll_over() -> None:
    """Begin the log of a daemon anew when it has grown long."""
    found = os.fstat(2)
    if found.st_size < _MAX_LOG:
        return
    with contextlib.suppress(OSError):
        path = os.readlink("/proc/self/fd/2")
        if path.endswith(".log"):
            os.rename(path, path + ".old")
            new = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(new, 2)
            os.close(new)
