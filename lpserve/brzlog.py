# SPDX-License-Identifier: GPL-2.0-or-later

"""Closes brz.log in long-lived processes; opens it late in workers."""

from __future__ import annotations

import errno
import logging
import os
import sys
from typing import Any

from breezy import osutils, trace


def forget_log() -> None:
    """Log to standard error only: a service and a zygote outlive a brz.log.

    Breezy flushes the file object at exit. It therefore stays open, but on the
    null device.
    """
    opened = trace._trace_file
    logging.getLogger("brz").handlers[:] = [logging.StreamHandler(sys.stderr)]
    trace._trace_file = None
    if opened is not None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, opened.fileno(), inheritable=False)
        os.close(null)


def open_late() -> None:
    """Log to a `LateFile`, and warnings to standard error, from now on."""
    logger = logging.getLogger("brz")
    logger.handlers.clear()
    trace.push_log_file(
        LateFile(),
        "[%(process)5d] %(asctime)s.%(msecs)03d %(levelname)s: %(message)s",
        "%Y-%m-%d %H:%M:%S",
    )
    logger.addHandler(logging.StreamHandler(sys.stderr))


class LateFile:
    """A brz.log that is opened, and rotated, at the first write.

    Most connections log nothing.
    """

    def __init__(self) -> None:
        self._file: Any = None
        self._opened = False

    def _open(self) -> Any:
        if not self._opened:
            self._opened = True
            # As in `trace.enable_default_logging`; it reports failures itself.
            self._file = trace._open_brz_log()
            if self._file is not None:
                begun = osutils.format_local_date(
                    trace._brz_log_start_time, timezone="local"
                )
                self._file.write(f"{begun}\n".encode())
        return self._file

    def write(self, data: bytes) -> None:
        """Write *data*; dropped if the log cannot be opened."""
        if (file := self._open()) is not None:
            file.write(data)

    def flush(self) -> None:
        """Do nothing: the file is not buffered."""

    def fileno(self) -> int:
        """The descriptor of the log.

        :raises OSError: if it cannot be opened.
        """
        if (file := self._open()) is None:
            raise OSError(errno.EBADF, "there is no log")
        number: int = file.fileno()
        return number
