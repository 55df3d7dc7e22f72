# SPDX-License-Identifier: GPL-2.0-or-later

"""Breezy's log, brz.log: of processes that live long, of those with little to say."""

from __future__ import annotations

import errno
import logging
import os
import sys
from typing import Any

from breezy import osutils, trace


def forget_log() -> None:
    """Log to standard error only: a service and a zygote outlive a brz.log.

    Breezy flushes the file object when it ends, so that stays; what it is open
    on does not.
    """
    opened = trace._trace_file
    logging.getLogger("brz").handlers[:] = [logging.StreamHandler(sys.stderr)]
    trace._trace_file = None
    if opened is not None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, opened.fileno(), inheritable=False)
        os.close(null)


def open_late() -> None:
    """Log to a brz.log of our own from now on; see `LateFile`."""
    logger = logging.getLogger("brz")
    logger.handlers.clear()
    trace.push_log_file(
        LateFile(),
        "[%(process)5d] %(asctime)s.%(msecs)03d %(levelname)s: %(message)s",
        "%Y-%m-%d %H:%M:%S",
    )
    logger.addHandler(logging.StreamHandler(sys.stderr))


class LateFile:
    """A brz.log, opened (and rolled over) when there is something to log.

    Most connections have nothing.
    """

    def __init__(self) -> None:
        self._file: Any = None
        self._opened = False

    def _open(self) -> Any:
        if not self._opened:
            self._opened = True
            # As in `trace.enable_default_logging`. It tells itself if it cannot.
            self._file = trace._open_brz_log()
            if self._file is not None:
                begun = osutils.format_local_date(
                    trace._brz_log_start_time, timezone="local"
                )
                self._file.write(f"{begun}\n".encode())
        return self._file

    def write(self, data: bytes) -> None:
        """Log *data*; nothing where the log cannot be opened."""
        if (file := self._open()) is not None:
            file.write(data)

    def flush(self) -> None:
        """It is not buffered."""

    def fileno(self) -> int:
        """The descriptor; OSError if it cannot be opened."""
        if (file := self._open()) is None:
            raise OSError(errno.EBADF, "there is no log")
        number: int = file.fileno()
        return number
