# SPDX-License-Identifier: GPL-2.0-or-later

"""The file with the pid of the service."""

from __future__ import annotations

import contextlib
import os

from ..errors import ConfigurationError


def write_pid_file(path: str) -> None:
    """Have the file *path* hold our pid: whole, in place of whatever was there.

    :raises ConfigurationError: if it cannot be written.
    """
    directory, name = os.path.split(path)
    new = os.path.join(directory, f".{name}.{os.getpid()}")
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)  # of one that was killed, and had our pid
        try:
            with open(new, "x") as file:
                file.write(f"{os.getpid()}\n")
            os.rename(new, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(new)
            raise
    except OSError as error:
        why = error.strerror or str(error)
        raise ConfigurationError(f"cannot write {path}: {why}") from None


def remove_pid_file(path: str) -> None:
    """Remove the file *path*, unless it is of another service by now."""
    with contextlib.suppress(OSError, ValueError), open(path) as file:
        if int(file.read(32)) == os.getpid():
            os.unlink(path)
