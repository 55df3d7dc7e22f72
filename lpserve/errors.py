# SPDX-License-Identifier: GPL-2.0-or-later

"""What can go wrong, as exceptions that carry one clear line each."""

from __future__ import annotations

import os


class LpserveError(Exception):
    """Base of all errors of lpserve; ``str()`` of one is a line for a person.

    :ivar public: the same for a user of ssh: it names no path of this host.
    """

    def __init__(self, text: str, public: str | None = None):
        super().__init__(text)
        self.public = text if public is None else public


class RuntimeDirectoryError(LpserveError):
    """The runtime directory cannot be made, used or trusted."""


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
    """An option is missing or has a value that cannot be used."""


class NotOursAnyMore(LpserveError):
    """What the service made to be found by has been removed or replaced."""


class ZygoteError(LpserveError):
    """The zygote could not be started, or could not fork."""


class UnsupportedPlatform(LpserveError):
    """The fork service needs something that this system does not have."""


class ClientError(LpserveError):
    """The client does not do its part: the connection ends."""


def text_of(error: BaseException) -> str:
    """What *error* says; of an error of the system without the files that it names."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    try:
        return str(error)
    except Exception:
        return ""


def os_fault(error: OSError) -> str:
    """What the system says of a failed call, in a line: the path, and why."""
    # Of a rename, the path that somebody knows is the second.
    path = error.filename2 or error.filename
    why = error.strerror or str(error) or type(error).__name__
    return f"{os.fsdecode(path)}: {why}" if isinstance(path, (str, bytes)) else why
