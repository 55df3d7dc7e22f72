# SPDX-License-Identifier: GPL-2.0-or-later

"""The access log: a line of JSON for each connection that has ended.

The service waits for nobody who reads it, and goes on without it when there is no
room. One thing it cannot help: a write to a file on a server that does not answer.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import time

from .. import root
from ..errors import ConfigurationError, text_of

log = logging.getLogger("lpserve")

#: Seconds until it is tried again to open a file that could not be opened.
RETRY = 5.0
_FLAGS = (
    os.O_WRONLY
    | os.O_APPEND
    | os.O_CREAT
    | os.O_NOFOLLOW
    | os.O_NONBLOCK
    | os.O_NOCTTY
    | os.O_CLOEXEC
)


def check(path: str | None, directory: str | None) -> None:
    """Find *path* fit for an access log.

    :param directory: ``lpserve.directory``, where clients may write.
    :raises ConfigurationError: if it is not.
    """
    if not path:
        return
    if not os.path.isabs(path):
        raise ConfigurationError(
            f"lpserve.access_log must be an absolute path, not {path!r}"
        )
    if os.path.islink(path):
        raise ConfigurationError(f"lpserve.access_log: {path} is a symbolic link")
    served = os.path.realpath(root.shared_part(directory or "/"))
    if os.path.commonpath([served, os.path.realpath(path)]) == served:
        raise ConfigurationError(f"lpserve.access_log: {path} is inside {served}")


class AccessLog:
    """See the module.

    :ivar path: where it is; None: nowhere.
    :ivar lost: lines that were not written.
    :ivar fault: why the last one was not, or "".
    """

    def __init__(self) -> None:
        self.path: str | None = None
        self.lost = 0
        self.fault = ""
        self._descriptor = -1
        self._half = False
        self._retry = 0.0

    def use(self, path: str | None) -> None:
        """Write to *path* from now on."""
        if (path or None) != self.path:
            self.close()
            self.path, self.fault = path or None, ""
            self._open()

    def reopen(self) -> None:
        """Open it anew: it was moved away, or there is room again."""
        self.close()
        self._open()

    def close(self) -> None:
        """Write no more until it is opened again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._half, self._retry = -1, False, 0.0

    def write(self, line: str) -> None:
        """Write *line*, or count it as lost."""
        if self.path is None:
            return
        if self._descriptor < 0 and time.monotonic() >= self._retry:
            self._open()
        if self._descriptor < 0:
            self.lost += 1
            return
        # What was cut by a full disk is a line of its own.
        data = b"\n" * self._half + line.encode("utf-8", "replace") + b"\n"
        try:
            count = os.write(self._descriptor, data)
        except OSError as error:
            self._failed(error)
            if error.errno == errno.EPIPE:  # the reader of a FIFO has gone
                self.close()
            return
        self._half = count < len(data) and (self._half or count > 0)
        if count < len(data):
            self._failed(OSError(errno.ENOSPC, "there was no room for a whole line"))
        elif self.fault:
            log.info("access log: written again; %d lines were lost", self.lost)
            self.fault = ""

    def _open(self) -> None:
        if self.path is None:
            return
        self._retry = time.monotonic() + RETRY
        descriptor = -1
        try:
            descriptor = os.open(self.path, _FLAGS, 0o640)
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISREG(mode) and mode & stat.S_IWOTH:
                raise PermissionError(errno.EPERM, "it is writable by others")
        except OSError as error:
            with contextlib.suppress(OSError):
                os.close(descriptor)
            self._report(f"cannot be opened: {text_of(error)}")
        else:
            self._descriptor = descriptor

    def _failed(self, error: OSError) -> None:
        self.lost += 1
        self._report(f"cannot be written: {text_of(error)}")

    def _report(self, fault: str) -> None:
        """Log *fault*, once until it is over."""
        if not self.fault:
            log.error("access log: %s %s", self.path, fault)
        self.fault = fault

    def status(self) -> dict[str, object] | None:
        """What ``status`` says of it; None: there is none."""
        if self.path is None:
            return None
        return {"path": self.path, "lost": self.lost, "fault": self.fault}
