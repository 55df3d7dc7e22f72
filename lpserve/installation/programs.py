# SPDX-License-Identifier: GPL-2.0-or-later

"""Runs other programs for the checks, with a time limit."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..errors import os_fault

#: Seconds until a program is killed.
PATIENCE = 60.0
#: The status of a program that could not be run, or was killed for its slowness.
NOT_RUN = -1000
#: Where programs of administrators are, which are not in the PATH of others.
_SBIN = ("/usr/sbin", "/usr/local/sbin", "/sbin", "/usr/lib/systemd")


class Done(NamedTuple):
    """How a program has ended.

    :ivar status: its exit status; negative for a signal; `NOT_RUN`.
    :ivar out: its standard output.
    :ivar err: its standard error, or why it could not be run.
    """

    status: int
    out: str
    err: str

    @property
    def why(self) -> str:
        """One line that tells why it failed."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        if lines:
            return lines[-1].strip()
        if self.status < 0:
            return f"signal {-self.status}"
        return f"exit status {self.status}"


def run(
    words: Sequence[str],
    environ: Mapping[str, str],
    stdin: str = "",
    patience: float = PATIENCE,
    account: tuple[int, int, list[int]] | None = None,
) -> Done:
    """Run a program to its end.

    :param environ: its whole environment.
    :param account: uid, gid and supplementary groups to run it as; None: as we are.
    """
    options = {}
    if account is not None:
        options = dict(zip(("user", "group", "extra_groups"), account))
    try:
        done = subprocess.run(
            list(words),
            input=stdin.encode("utf-8", "surrogateescape"),
            capture_output=True,
            env=dict(environ),
            cwd="/",
            timeout=patience,
            check=False,
            **options,  # type: ignore[call-overload]
        )
    except subprocess.TimeoutExpired:
        return Done(NOT_RUN, "", f"did not end within {patience:g} s")
    except OSError as error:
        return Done(NOT_RUN, "", os_fault(error))
    out, err = (each.decode("utf-8", "replace") for each in (done.stdout, done.stderr))
    return Done(done.returncode, out, err)


def find(name: str, path: str) -> str | None:
    """The program *name* in *path*, a colon-separated list, or a path itself."""
    return shutil.which(name, path=path)


def find_admin(name: str) -> str | None:
    """The program *name* of an administrator, such as sshd."""
    return find(name, os.pathsep.join([os.environ.get("PATH", os.defpath), *_SBIN]))
