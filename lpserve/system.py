# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""What the operating system is asked for: fork, subreaper, daemon, systemd.

This is the one module that forks.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from typing import NoReturn

from .errors import LpserveError, UnsupportedPlatform

# <linux/prctl.h>
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def check_platform() -> None:
    """Whether the service can run here.

    :raises UnsupportedPlatform: with what is missing.
    """
    if not hasattr(os, "fork") or sys.platform != "linux":
        raise UnsupportedPlatform(
            "the fork service needs Linux; 'brz lp-serve --inet' works everywhere"
        )
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        raise UnsupportedPlatform("the fork service needs Linux 5.4 or newer") from None


def become_subreaper() -> None:
    """Become the parent of orphaned descendants (prctl(2))."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Have the kernel kill us when our parent ends (prctl(2)).

    It says nothing of one that has ended before: that is the caller's to see.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0):
        text = os.strerror(ctypes.get_errno())
        raise UnsupportedPlatform(f"prctl({option}) failed: {text}")


def count_threads() -> int:
    """How many threads this process has, those that Python does not know too."""
    return len(os.listdir("/proc/self/task"))


def open_descriptors() -> list[int]:
    """The descriptors that this process has open."""
    with os.scandir("/proc/self/fd") as entries:
        listing = [int(entry.name) for entry in entries]
    # One of them was the listing's own.
    return [number for number in listing if _is_open(number)]


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def raise_descriptor_limit() -> tuple[int, int]:
    """Allow as many descriptors as may be; the limits from before."""
    import resource  # which Windows, where --inet works, does not have

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    return before


def keep_what_is_loaded() -> None:
    """Have the garbage collector leave alone what is there now.

    Going through all of it takes tens of milliseconds, and everybody waits.
    """
    gc.collect()
    gc.freeze()


def disable_debugger() -> None:
    """Let SIGQUIT end us: Breezy's debugger would talk to the client."""
    if hasattr(signal, "SIGQUIT"):
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def set_title(text: str) -> None:
    """Name this process for ps(1) and top(1); 15 bytes of it are shown."""
    with contextlib.suppress(OSError), open("/proc/self/comm", "wb", 0) as comm:
        comm.write(text.encode("utf-8", "replace")[:15])


def _check_one_thread() -> None:
    threads = count_threads()
    if threads != 1:
        names = ", ".join(sorted(each.name for each in threading.enumerate()))
        raise LpserveError(f"{threads} threads are running ({names}): cannot fork")


def fork(run: Callable[[], int | None], bound: bool = False) -> int:
    """Call *run* in a forked child, which ends with what it returns; its pid.

    The child never comes back into the frames of its parent, whatever happens
    in *run*.

    :param bound: it does not outlive us, however we end.
    :raises LpserveError: if there is a second thread: it would be missing in
        the child, with whatever locks it held.
    :raises OSError: if there can be no child.
    """
    _check_one_thread()
    # What is in a buffer now would be written by both.
    for stream in (sys.stdout, sys.stderr):
        # None where it was closed as we were started.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            if bound:
                die_with_parent()
                if os.getppid() != parent:
                    os._exit(status)
            result = run() or 0
            status = result if result in range(256) else 70
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)
    return pid


def daemonize(log_file: str) -> Callable[[str], None]:
    """Go on in a background process; the foreground one waits for its report.

    Only the background process returns: a function to call once, with "" when
    all is well, or with a line that the foreground process prints before it
    exits with status 3.

    :param log_file: becomes standard error of the background process.
    :raises OSError: if *log_file* cannot be written.
    :raises LpserveError: if there is a second thread.
    """
    _check_one_thread()
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    reader, writer = os.pipe()

    pid = os.fork()
    if pid:
        os.close(writer)
        os.waitpid(pid, 0)
        _wait_for_report(reader)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for number, target in ((null, 0), (null, 1), (log, 2)):
        os.dup2(number, target)
    # Whatever we inherited (sshd's connection, for one) must not be kept open.
    for number in open_descriptors():
        if number > 2 and number != writer:
            os.close(number)

    def report(text: str) -> None:
        with contextlib.suppress(OSError):
            os.write(writer, text.encode("utf-8", "replace") or b"\n")
        os.close(writer)

    return report


def _wait_for_report(reader: int) -> NoReturn:
    text = b""
    while chunk := os.read(reader, 4096):
        text += chunk
    if text == b"\n":
        os._exit(0)
    line = text.decode("utf-8", "replace") or "the service died; see its log"
    sys.stderr.write(f"brz: ERROR: {line}\n")
    sys.stderr.flush()
    os._exit(3)


def notify(*lines: str) -> None:
    """Tell systemd, where it asked to be told (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
    ):
        sender.sendto("\n".join(lines).encode(), address)
