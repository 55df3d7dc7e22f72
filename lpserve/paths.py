# SPDX-License-Identifier: GPL-2.0-or-later

"""Creates, checks, locks and clears the runtime directory; see doc/protocol.txt."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Collection

from .errors import AlreadyRunning, RuntimeDirectoryError
from .location import directory_fault, socket_address

_client_reply = re.compile(r"client\.([0-9]+)\.[0-9a-f]+")


_STAGE = ".rehearsal-"


class RuntimeDirectory:
    """The directory in which service and clients meet.

    :param path: absolute.
    """

    def __init__(self, path: str):
        self.path = path
        self.control = os.path.join(path, "control")
        self.socket = os.path.join(path, "socket")
        self.replies = os.path.join(path, "replies")
        self.connections = os.path.join(path, "connections")
        self.lock = os.path.join(path, "lock")
        self.warm = os.path.join(path, "warm")
        self._serials = itertools.count(1)
        self._mode = 0o700
        self._locked: tuple[int, int] | None = None

    def prepare(self) -> None:
        """Create the directory and its subdirectories, where they are missing.

        :raises RuntimeDirectoryError: if it cannot be created, or is owned by
            another user, or is writable by others.
        """
        if any(character < " " or character == "\x7f" for character in self.path):
            # An answer is one line, and names paths.
            raise RuntimeDirectoryError(
                f"{self.path!r} has control characters; choose another --runtime-dir"
            )
        try:
            os.makedirs(self.path, 0o700, exist_ok=True)
            fault = directory_fault(self.path)
            if fault is not None:
                raise RuntimeDirectoryError(f"not safe to use: {fault}")
            self._mode = stat.S_IMODE(os.stat(self.path).st_mode)
            for path in (self.replies, self.connections):
                if (fault := _make_private(path)) is not None:
                    raise RuntimeDirectoryError(f"{fault}; remove it")
        except OSError as error:
            raise RuntimeDirectoryError(
                f"cannot use {self.path}: {error.strerror}; "
                "choose another --runtime-dir"
            ) from None

    def restore(self) -> list[str]:
        """Create its subdirectories again if they were removed.

        :returns: a line for each that cannot be, because something else is there.
        """
        faults = map(_make_private, (self.replies, self.connections))
        return [fault for fault in faults if fault is not None]

    def close_to_others(self, peers: bool) -> bool:
        """Restore its mode if others can write to it; whether they could.

        :param peers: other users need search permission, to reach the socket.
        """
        if not stat.S_IMODE(os.stat(self.path).st_mode) & 0o022:
            return False
        os.chmod(self.path, self._mode | (0o011 if peers else 0))
        return True

    @property
    def is_ours(self) -> bool:
        """Whether it exists, belongs to this user and is the one that was locked."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return False
        same = self._locked in (None, (found.st_dev, found.st_ino))
        return same and found.st_uid == os.geteuid()

    def acquire(self) -> int:
        """Lock the directory; the descriptor that holds the lock.

        :raises AlreadyRunning: if a service holds it; with the pid of that.
        """
        patience = time.monotonic() + 0.5
        while True:
            lock = os.open(self.lock, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found = os.stat(self.lock)
            except BlockingIOError:
                holder = os.read(lock, 32).decode("ascii", "replace").strip()
                os.close(lock)
                if not _is_running(holder) and time.monotonic() < patience:
                    time.sleep(0.01)  # a client tests whether the lock is held
                    continue
                raise AlreadyRunning(self.path, holder or "unknown") from None
            except FileNotFoundError:
                os.close(lock)
                continue
            if os.path.samestat(found, os.fstat(lock)):
                break
            os.close(lock)  # the file was replaced meanwhile
        self.take_lock(lock)
        return lock

    def holder(self) -> int | None:
        """The pid of the service that has written it into the lock file, or None."""
        with contextlib.suppress(OSError, ValueError), open(self.lock) as file:
            return int(file.read(32))
        return None

    def take_lock(self, lock: int) -> None:
        """Have the lock that another process has acquired and passed to us."""
        self.write_pid(lock)
        found = os.stat(self.path)
        self._locked = found.st_dev, found.st_ino

    @staticmethod
    def write_pid(lock: int) -> None:
        """Write the pid of this process into the lock file."""
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)

    def clear_leftovers(self, kept: Collection[str] = ()) -> None:
        """Remove what a killed service left; the caller holds the lock.

        A live worker holds a lock on the directory of its connection, which
        therefore stays.

        :param kept: paths that are not removed: doors that systemd made.
        """
        for name in os.listdir(self.path):
            path = os.path.join(self.path, name)
            if path in kept:
                continue
            if path in (self.control, self.socket) or name.startswith(".new-"):
                with contextlib.suppress(OSError):
                    os.unlink(path)
        self.clear_connections()
        self.clear_replies()
        self.clear_rehearsals(even_running=True)

    def clear_rehearsals(self, even_running: bool = False) -> None:
        """Remove the directories of rehearsals whose zygotes have ended.

        During an upgrade there is a zygote of another service.

        :param even_running: also of processes that run: they are not zygotes any more.
        """
        names: list[str] = []
        with contextlib.suppress(FileNotFoundError):
            names = os.listdir(self.path)
        for name in names:
            if not name.startswith(_STAGE):
                continue
            if even_running or not _is_running(name.removeprefix(_STAGE)):
                shutil.rmtree(os.path.join(self.path, name), ignore_errors=True)

    def clear_connections(self) -> None:
        """Remove the directories of connections that no process holds locked."""
        for path in self.connection_paths():
            self.clear_connection(path)

    def connection_paths(self) -> list[str]:
        """The directories of connections that exist now."""
        if not is_private(self.connections):
            return []
        with os.scandir(self.connections) as entries:
            return [entry.path for entry in entries]

    def clear_connection(self, path: str) -> None:
        """Remove the directory of a connection if no process holds it locked."""
        try:
            held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            return
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_connection(path)
        except BlockingIOError:
            pass
        finally:
            os.close(held)

    def clear_replies(self) -> None:
        """Remove the reply FIFOs of clients that were killed."""
        if not is_private(self.replies):
            return
        now = time.time()
        for name in os.listdir(self.replies):
            match = _client_reply.fullmatch(name)
            path = os.path.join(self.replies, name)
            with contextlib.suppress(OSError):
                # A client in another pid namespace looks dead; give it a second.
                if (
                    match is not None
                    and now - os.stat(path).st_ctime > 1
                    and not _is_running(match.group(1))
                ):
                    os.unlink(path)

    def make_connection(self) -> ConnectionDirectory:
        """Create a directory with the three FIFOs of a connection.

        :raises OSError: if that fails; nothing is left behind then.
        """
        while True:
            name = f"{os.getpid()}-{next(self._serials)}"
            with contextlib.suppress(FileExistsError):
                return ConnectionDirectory(os.path.join(self.connections, name))


class ConnectionDirectory:
    """The directory and FIFOs of one connection, on the side of the service.

    :ivar fifos: absolute paths of stdin, stdout and stderr.
    :ivar stdin: descriptor of the read end of stdin; open before a client opens
        the write end, so that the client does not block.
    :ivar held: descriptor of the directory; a shared lock that lasts until every
        process has closed it.
    """

    def __init__(self, path: str):
        self.path = path
        self.fifos = connection_fifos(path)
        self.held = self.stdin = -1
        os.mkdir(path, 0o700)
        try:
            self.held = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(self.held, fcntl.LOCK_SH)
            for fifo in self.fifos:
                os.mkfifo(fifo, 0o600)
            self.stdin = os.open(self.fifos[0], os.O_RDONLY | os.O_NONBLOCK)
            os.set_blocking(self.stdin, True)
        except BaseException:
            self.close()
            remove_connection(path)
            raise

    def close(self) -> None:
        """Close the descriptors; the worker has received its own copies."""
        for descriptor in (self.stdin, self.held):
            if descriptor >= 0:
                os.close(descriptor)
        self.stdin = self.held = -1


def bind_socket(listener: socket.socket, path: str) -> None:
    """Bind a Unix socket to *path*, in place of what is there.

    :raises OSError: if that cannot be done.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    address, directory = socket_address(path)
    try:
        listener.bind(address)
    finally:
        if directory >= 0:
            os.close(directory)


def is_private(path: str) -> bool:
    """Whether *path* is a directory, not a link, and belongs to this user."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def _make_private(path: str) -> str | None:
    """Create the directory *path* if it is missing, with mode 0700.

    :returns: a line if something else has that name; else None.
    :raises OSError: if it cannot be created.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    if not is_private(path):
        return f"{path} is not a directory of ours"
    if stat.S_IMODE(os.stat(path).st_mode) & 0o077:
        os.chmod(path, 0o700)
    return None


def _is_running(pid: str) -> bool:
    return pid.isdigit() and os.path.exists(f"/proc/{pid}")


def rehearsal_stage(runtime_dir: str, pid: int) -> str:
    """The directory that the rehearsal of the zygote *pid* uses."""
    return os.path.join(runtime_dir, f"{_STAGE}{pid}")


def connection_fifos(path: str) -> tuple[str, str, str]:
    """The paths of stdin, stdout and stderr in the connection directory *path*."""
    return (f"{path}/stdin", f"{path}/stdout", f"{path}/stderr")


def remove_connection(path: str) -> None:
    """Remove a connection directory, complete or not; errors are ignored."""
    for name in connection_fifos(path):
        with contextlib.suppress(OSError):
            os.unlink(name)
    with contextlib.suppress(OSError):
        os.rmdir(path)
