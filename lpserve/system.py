# SPDX-License-Identifier: GPL-2.0-or-later

"""Wraps what the operating system does: fork, subreaper, daemon.

This is the one module that forks.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import os
import signal
import struct
import sys
import threading
import traceback
from collections.abc import Callable
from typing import NoReturn

from .errors import LpserveError, UnsupportedPlatform

# <linux/prctl.h>
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
# <linux/sched.h>; the number of clone3 is the same everywhere.
_CLONE_PARENT = 0x8000
_SYS_CLONE3 = 435
#: clone(2), where its first argument are the flags. Filters that cannot look at the
#: flags of clone3(2) refuse that: systemd's RestrictNamespaces= is one.
_MACHINE = os.uname().machine if hasattr(os, "uname") and sys.maxsize >> 32 else ""
_SYS_CLONE = {"x86_64": 56, "aarch64": 220}.get(_MACHINE)

# PyDLL keeps the GIL: a fork needs it, and the other calls do not block.
_libc = ctypes.PyDLL(None, use_errno=True)
_pid_and_errno = struct.Struct("ii")


def check_platform() -> None:
    """Check that the service can run on this system.

    :raises UnsupportedPlatform: if not; the text names what is missing.
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
    """Have the kernel kill this process when its parent ends (prctl(2)).

    The caller has to check that the parent had not ended before.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0):
        text = os.strerror(ctypes.get_errno())
        raise UnsupportedPlatform(f"prctl({option}) failed: {text}")


def count_threads() -> int:
    """How many threads this process has, including those that Python did not start."""
    return len(os.listdir("/proc/self/task"))


def open_descriptors() -> list[int]:
    """The numbers of the descriptors that this process has open."""
    with os.scandir("/proc/self/fd") as entries:
        listing = [int(entry.name) for entry in entries]
    # One of them was that of the directory /proc/self/fd.
    return [number for number in listing if _is_open(number)]


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def raise_descriptor_limit() -> tuple[int, int]:
    """Raise the soft limit of descriptors to the hard one; both former limits."""
    import resource  # which Windows, where --inet works, does not have

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    return before


def keep_what_is_loaded() -> None:
    """Collect garbage, then exclude all present objects from later collections.

    A collection of all objects takes tens of milliseconds, during which every
    connection waits.
    """
    gc.collect()
    gc.freeze()


def disable_debugger() -> None:
    """Let SIGQUIT end this process.

    Breezy starts a debugger for it, which would read from and write to the client.
    """
    if hasattr(signal, "SIGQUIT"):
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def stopping_signals() -> list[signal.Signals]:
    """SIGTERM, and SIGINT unless it is ignored (a script's "&" has it ignored)."""
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    return [signal.SIGTERM] if ignored else [signal.SIGTERM, signal.SIGINT]


def set_title(text: str) -> None:
    """Name this process for ps(1) and top(1); 15 bytes of it are shown."""
    with contextlib.suppress(OSError, AttributeError):
        _libc.prctl(_PR_SET_NAME, text.encode("utf-8", "replace")[:15], 0, 0, 0)


def _check_one_thread() -> None:
    threads = count_threads()
    if threads != 1:
        names = ", ".join(sorted(each.name for each in threading.enumerate()))
        raise LpserveError(f"{threads} threads are running ({names}): cannot fork")


def fork(run: Callable[[], int | None], bound: bool = False) -> int:
    """Fork a child that calls *run* and exits with its result; the child's pid.

    The child never returns into the frames of its parent, even if *run* raises;
    it exits with status 70 then.

    :param bound: the kernel kills the child when this process ends.
    :raises LpserveError: if there is a second thread. The child would not have
        that thread, and the locks it holds would never be released.
    :raises OSError: if the fork fails.
    """
    _get_ready_to_fork()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _be_child(lambda: 70 if bound and not _is_bound(parent) else run())
    return pid


def fork_sibling(run: Callable[[], int | None]) -> int:
    """Like `fork`, but the child becomes a child of our parent, which has to reap it.

    :raises LpserveError, OSError: as `fork`.
    """
    _get_ready_to_fork()
    global _clone
    while _clone is not None:
        try:
            pid = _clone()
        except OSError as error:
            # Some containers do not allow clone3(2).
            if error.errno not in (errno.ENOSYS, errno.EPERM):
                raise
            older = _SYS_CLONE is not None and _clone is _clone_sibling
            _clone = _clone_by_flags if older else None
        else:
            if pid == 0:
                _be_child(run)
            return pid
    return _fork_through_a_middle_process(run)


def _get_ready_to_fork() -> None:
    _check_one_thread()
    # Parent and child would both write what is buffered now.
    for stream in (sys.stdout, sys.stderr):
        # A stream is None if its descriptor was closed when we were started.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()


def _is_bound(parent: int) -> bool:
    """Die with *parent*; False if it has ended already."""
    die_with_parent()
    return os.getppid() == parent


def _be_child(run: Callable[[], int | None]) -> NoReturn:
    status = 70
    try:
        result = run() or 0
        status = result if result in range(256) else 70
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


class _CloneArguments(ctypes.Structure):
    """``struct clone_args`` of clone3(2), its first version."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
        )
    )


def _clone_sibling() -> int:
    """Do what os.fork does, with CLONE_PARENT: the child is our parent's.

    The call bypasses libc. What libc does around a fork matters to processes with
    several threads only, with one exception. glibc 2.25 and newer keeps a thread id
    for some kinds of locks. In the child it is still that of the parent, which does
    no harm in a process with one thread. The hooks of Python are called as the
    documentation of PyOS_BeforeFork requires.

    :returns: the pid of the child; 0 in the child.
    :raises OSError: if the fork fails.
    """
    size = ctypes.c_size_t(ctypes.sizeof(_arguments))
    return _clone_with(_SYS_CLONE3, ctypes.byref(_arguments), size)


def _clone_by_flags() -> int:
    """The same as `_clone_sibling`, by clone(2)."""
    nothing = (ctypes.c_ulong(0),) * 4
    return _clone_with(_SYS_CLONE, ctypes.c_ulong(_CLONE_PARENT), *nothing)


def _clone_with(*arguments: object) -> int:
    python = ctypes.pythonapi
    python.PyOS_BeforeFork()
    pid: int = _libc.syscall(*arguments)
    if pid == 0:
        python.PyOS_AfterFork_Child()
        return 0
    fault = ctypes.get_errno()
    python.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(fault, os.strerror(fault))
    return pid


_arguments = _CloneArguments(flags=_CLONE_PARENT)
#: Forks a sibling; None if the kernel does not allow clone3(2).
_clone: Callable[[], int] | None = _clone_sibling


def _fork_through_a_middle_process(run: Callable[[], int | None]) -> int:
    """Fork a child that forks a grandchild and exits.

    The kernel makes the grandchild a child of the nearest subreaper, which is our
    parent if that is one.
    """
    reader, writer = os.pipe()

    def be_middle() -> None:
        try:
            report = _pid_and_errno.pack(fork(run_alone), 0)
        except OSError as error:
            report = _pid_and_errno.pack(0, error.errno or errno.EAGAIN)
        os.write(writer, report)

    def run_alone() -> int | None:
        os.close(reader)
        os.close(writer)
        return run()

    try:
        middle = fork(be_middle, bound=True)
        os.close(writer)
        writer = -1
        os.waitpid(middle, 0)
        report = os.read(reader, _pid_and_errno.size)
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
    if not report:
        raise OSError(errno.EAGAIN, "the middle process was killed")
    pid, fault = _pid_and_errno.unpack(report)
    if fault:
        raise OSError(fault, os.strerror(fault))
    return int(pid)


def daemonize(log_file: str) -> Callable[[str], None]:
    """Continue in a background process; the foreground process waits for its report.

    Only the background process returns. It returns a function to be called once:
    with "" on success, after which the foreground process exits with status 0; or
    with a line that the foreground process prints before it exits with status 3.

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
    # An inherited descriptor may be sshd's connection, which would stay open.
    for number in open_descriptors():
        if number > 2 and number != writer:
            os.close(number)

    def report(text: str) -> None:
        nonlocal writer
        if writer < 0:
            return  # the foreground process has its report
        with contextlib.suppress(OSError):
            os.write(writer, text.encode("utf-8", "replace") or b"\n")
        os.close(writer)
        writer = -1

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
