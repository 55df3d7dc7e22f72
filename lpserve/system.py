# SPDX-License-Identifier: GPL-2.0-or-later

"""What the operating system is asked for: fork, subreaper, daemon, systemd.

This is the one module that forks.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import mmap
import os
import signal
import socket
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

# With the GIL held: a fork needs it, and the others do not wait.
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    *(ctypes.c_int,) * 3,
    ctypes.c_long,
]
_MAP_FAILED = ctypes.c_void_p(-1).value
_pid_and_errno = struct.Struct("ii")


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
    if _libc.prctl(option, value, 0, 0, 0):
        text = os.strerror(ctypes.get_errno())
        raise UnsupportedPlatform(f"prctl({option}) failed: {text}")


class Mapping:
    """A file in memory, without a descriptor.

    Python's own mmap keeps one open, in each process that inherits it.

    :param descriptor: of the file, which may be closed afterwards.
    :ivar view: its bytes, read-only; not to be used after `close`.
    :raises OSError: if it cannot be mapped.
    """

    def __init__(self, descriptor: int):
        self._size = os.fstat(descriptor).st_size
        self._address = _libc.mmap(
            None, self._size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0
        )
        if self._address in (None, _MAP_FAILED):
            fault = ctypes.get_errno()
            raise OSError(fault, os.strerror(fault))
        whole = (ctypes.c_char * self._size).from_address(self._address)
        self.view = memoryview(whole).cast("B").toreadonly()

    def close(self) -> None:
        """Unmap it, after the last view of it was released."""
        self.view.release()
        _libc.munmap(ctypes.c_void_p(self._address), ctypes.c_size_t(self._size))


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


def stopping_signals() -> list[signal.Signals]:
    """SIGTERM, and SIGINT unless it is ignored, as in what a script starts with "&"."""
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
    """Call *run* in a forked child, which ends with what it returns; its pid.

    The child never comes back into the frames of its parent, whatever happens
    in *run*.

    :param bound: it does not outlive us, however we end.
    :raises LpserveError: if there is a second thread: it would be missing in
        the child, with whatever locks it held.
    :raises OSError: if there can be no child.
    """
    _get_ready_to_fork()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _be_child(lambda: 70 if bound and not _is_bound(parent) else run())
    return pid


def fork_sibling(run: Callable[[], int | None]) -> int:
    """The same as `fork`, but the child is our parent's: that is to reap it.

    :raises LpserveError, OSError: as `fork`.
    """
    _get_ready_to_fork()
    global _clone
    if _clone is not None:
        try:
            pid = _clone()
        except OSError as error:
            # Some containers let nobody use clone3(2).
            if error.errno not in (errno.ENOSYS, errno.EPERM):
                raise
            _clone = None
        else:
            if pid == 0:
                _be_child(run)
            return pid
    return _fork_through_a_middle_process(run)


def _get_ready_to_fork() -> None:
    _check_one_thread()
    # What is in a buffer now would be written by both.
    for stream in (sys.stdout, sys.stderr):
        # None where it was closed as we were started.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()


def _is_bound(parent: int) -> bool:
    """Bind us to the life of *parent*; False if it has ended already."""
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
    """What os.fork does, with CLONE_PARENT: the child is our parent's.

    libc does not know of it. What it does around a fork is for processes with
    several threads, but for the thread id that it keeps for some kinds of locks
    (glibc 2.25 and newer): in the child it is the parent's, which does no harm
    to the only thread there is. Python is told as its documentation of
    PyOS_BeforeFork says.

    :raises OSError: if there can be no child.
    """
    python = ctypes.pythonapi
    python.PyOS_BeforeFork()
    size = ctypes.sizeof(_arguments)
    pid: int = _libc.syscall(_SYS_CLONE3, ctypes.byref(_arguments), size)
    if pid == 0:
        python.PyOS_AfterFork_Child()
        return 0
    fault = ctypes.get_errno()
    python.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(fault, os.strerror(fault))
    return pid


_arguments = _CloneArguments(flags=_CLONE_PARENT)
#: Makes a sibling; None where the kernel does not let us.
_clone: Callable[[], int] | None = _clone_sibling


def _fork_through_a_middle_process(run: Callable[[], int | None]) -> int:
    """Fork a child that forks one and ends: the kernel gives the orphan away.

    To the nearest subreaper: if our parent is one, that is our parent.
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
        nonlocal writer
        if writer < 0:
            return  # nobody waits any more
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
