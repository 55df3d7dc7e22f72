# SPDX-License-Identifier: GPL-2.0-or-later

"""Stays until the successors of this process have ended.

Whoever has started the first service waits for it, and sends signals to it: a shell, a
container, a supervisor without systemd's MAINPID.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal

from ..paths import RuntimeDirectory
from ..system import set_title

log = logging.getLogger("lpserve")

_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


def follow(directory: RuntimeDirectory) -> None:
    """Pass signals on to the service that has the runtime directory, until it ends.

    Nothing is done where no successor runs, or where systemd knows of it. As we are a
    subreaper, the successors of our successor become our children.
    """
    if os.environ.get("NOTIFY_SOCKET"):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, (*_PASSED_ON, signal.SIGCHLD))
    set_title("lp-serve-before")
    while _has_children():
        number = signal.sigwait((*_PASSED_ON, signal.SIGCHLD))
        if number in _PASSED_ON and (pid := directory.holder()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def _has_children() -> bool:
    """Reap those that have ended; whether any are left."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
        return True
    return False
