# SPDX-License-Identifier: GPL-2.0-or-later

"""Defines the exceptions of lpserve; the text of each is one line."""

from __future__ import annotations

import os


class LpserveError(Exception):
    """Base of all errors of lpserve; ``str()`` is one line for the administrator.

    :ivar public: one line for a remote user, which names no path of this host.
    """

    def __init__(self, text: str, public: str | None = None):
        super().__init__(text)
        self.public = text if public is None else public


class RuntimeDirectoryError(LpserveError):
    """The runtime directory cannot be created, used or trusted."""


class AlreadyRunning(LpserveError):
    """Another service holds the runtime directory."""

    def __init__(self, directory: str, pid: str):
        super().__init__(
            f"a service is already running in {directory} (pid {pid}); "
            "stop it with 'brz lp-serve-control shutdown' or choose another "
            "--runtime-dir"
        )
        self.pid = pid


class ConfigurationError(LpserveError):
    """An option is missing or has an invalid value."""


class NotOursAnyMore(LpserveError):
    """The runtime directory, or a door in it, was removed or replaced."""


class ZygoteError(LpserveError):
    """The zygote could not be started, or could not fork."""


class UnsupportedPlatform(LpserveError):
    """This system lacks something that the fork service needs."""


class ClientError(LpserveError):
    """The client violates the protocol or is too slow: the connection ends."""


def text_of(error: BaseException) -> str:
    """The text of *error*; for an OSError without the paths that it names."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    try:
        return str(error)
    except Exception:
        return ""


def os_fault(error: OSError) -> str:
    """One line for a failed system call: the path, if there is one, and the reason."""
    # For a rename, the final name is the second: the first one is temporary.
    path = error.filename2 or error.filename
    why = error.strerror or str(error) or type(error).__name__
    return f"{os.fsdecode(path)}: {why}" if isinstance(path, (str, bytes)) else why
