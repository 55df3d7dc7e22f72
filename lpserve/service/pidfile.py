# SPDX-License-Identifier: GPL-2.0-or-later

"""Writes and removes the file with the pid of the service."""

from __future__ import annotations

import contextlib
import os

from ..errors import ConfigurationError


def write_pid_file(path: str) -> None:
    """Write our pid to the file *path*, which is replaced atomically.

    :raises ConfigurationError: if that fails.
    """
    directory, name = os.path.split(path)
    new = os.path.join(directory, f".{name}.{os.getpid()}")
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)  # left by a killed process with our pid
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
    """Remove the file *path*, unless it contains another pid."""
    with contextlib.suppress(OSError, ValueError), open(path) as file:
        if int(file.read(32)) == os.getpid():
            os.unlink(path)
