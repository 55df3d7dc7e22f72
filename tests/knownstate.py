# SPDX-License-Identifier: GPL-2.0-or-later

"""What the tests find the same wherever they are started.

A shell hands on more than it means to: signals that it ignores (nohup, or "&" in a
script), descriptors that it has open, a umask, an environment. What the tests start
would inherit all of it.
"""

from __future__ import annotations

import os
import signal

from ..lpserve.system import open_descriptors

#: Names in the environment that change what the tests do; those of Breezy are
#: `breezy.tests.isolated_environ`'s.
NAMES = (
    *("LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "LC_MESSAGES", "LC_TIME", "TZ"),
    *("LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID", "MAINPID", "NOTIFY_SOCKET"),
    *("INVOCATION_ID", "JOURNAL_STREAM", "WATCHDOG_PID", "WATCHDOG_USEC"),
    *("LPSERVE_RUNTIME_DIR", "RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME"),
    *("SSH_CLIENT", "SSH_CONNECTION", "SSH_ORIGINAL_COMMAND", "SSH_ASKPASS", "DISPLAY"),
    *("MAKEFLAGS", "MAKELEVEL", "MFLAGS"),
)
#: What Python ignores by itself, and `subprocess` restores.
OF_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


def enter() -> None:
    """Bring this process, and all that it starts, into the known state."""
    _enter_signals()
    _enter_descriptors()
    os.umask(0o022)
    for name in NAMES:
        os.environ.pop(name, None)


def _enter_signals() -> None:
    ignored = [
        number
        for number in signal.valid_signals()
        if signal.getsignal(number) == signal.SIG_IGN and number not in OF_PYTHON
    ]
    for number in ignored:
        usual = signal.SIG_DFL
        if number == signal.SIGINT:
            usual = signal.default_int_handler
        signal.signal(number, usual)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if ignored and os.getpid() != os.getpgrp():
        # Without a terminal nobody is sent the signals that were to be ignored.
        os.setsid()


def _enter_descriptors() -> None:
    # What Python opens is not inheritable; and what is, is another's.
    for number in open_descriptors():
        if number > 2:
            os.set_inheritable(number, False)
