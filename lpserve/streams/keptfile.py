# SPDX-License-Identifier: GPL-2.0-or-later

"""The file of a kept stream: the frames of an answer as they go over the wire.

It begins with a header, which says how long it is: nothing, until it is complete. A
frame is a part of a message of the third version of the protocol: b"b", four bytes of
length, and as many bytes. The maker of a file holds a lock on it while it lives;
whoever reads behind it holds another, which tells the maker that it is read.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct

_TITLE = b"lpserve stream 1\n"
#: The bytes before the first frame.
HEADER = len(_TITLE) + 21
#: The bytes of a frame before what it carries.
FRAME = 5
#: What readers lock, beyond the end of any file.
_READERS = 1 << 62


def frame(chunk: bytes) -> bytes:
    """What goes over the wire before *chunk*."""
    return b"b" + struct.pack("!L", len(chunk))


def path_of(directory: str, key: str, maker: int = 0) -> str:
    """The path of a stream; with the pid of a *maker*, while that makes it."""
    name = f"{key}.{maker}.tmp" if maker else key
    return os.path.join(directory, name)


class _File:
    def __init__(self, descriptor: int):
        self.descriptor = descriptor

    def close(self) -> None:
        """Close it; may be called again."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def read(self, start: int, size: int) -> bytes:
        """*size* bytes, or less at the end."""
        return os.pread(self.descriptor, size, start)


class KeptFile(_File):
    """A stream that is there, or that another process makes.

    :raises OSError: if there is none, or it cannot be used.
    """

    def __init__(self, directory: str, key: str, maker: int = 0):
        path = path_of(directory, key, maker)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        super().__init__(os.open(path, flags))
        try:
            if os.fstat(self.descriptor).st_uid != os.geteuid():
                raise OSError(errno.EPERM, os.strerror(errno.EPERM), path)
            if maker:
                reading = _part(fcntl.F_RDLCK)
                fcntl.fcntl(self.descriptor, fcntl.F_OFD_SETLK, reading)
            elif self.end is None:
                raise OSError(errno.ENODATA, os.strerror(errno.ENODATA), path)
        except BaseException:
            self.close()
            raise

    @property
    def end(self) -> int | None:
        """Where the last frame ends, in bytes; None while it is not complete."""
        header = self.read(0, HEADER)
        if header[: len(_TITLE)] != _TITLE or len(header) < HEADER:
            return None
        end = HEADER + int(header[len(_TITLE) :])
        # The header may be half-written just now; and the file may have been cut.
        whole = end > HEADER and os.fstat(self.descriptor).st_size == end
        return end if whole else None

    def whole_frames(self, start: int) -> int:
        """Where the last whole frame ends of those that begin at *start*."""
        there = os.fstat(self.descriptor).st_size
        while len(head := self.read(start, FRAME)) == FRAME:
            (size,) = struct.unpack("!L", head[1:])
            if start + FRAME + size > there:
                break
            start += FRAME + size
        return start

    @property
    def is_abandoned(self) -> bool:
        """Whether its maker has ended, or given up."""
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return False
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        return True


class NewFile(_File):
    """A stream that this process makes.

    :param room: the most bytes that it may have.
    :ivar end: where its last whole frame ends.
    :raises OSError: if it cannot be created.
    """

    def __init__(self, directory: str, key: str, room: int):
        self._directory, self._key, self._room = directory, key, room
        self._path = path_of(directory, key, os.getpid())
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        super().__init__(os.open(self._path, flags, 0o600))
        self._named = True
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX)
            self._write(_header(0), 0)
        except BaseException:
            self.abandon()
            self.close()
            raise
        self.end = HEADER

    def add(self, chunk: bytes) -> None:
        """Append a frame.

        :raises OSError: if there is no room for it; what was before stays.
        """
        if self.end + FRAME + len(chunk) > self._room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._path)
        self._write(frame(chunk) + chunk, self.end)
        self.end += FRAME + len(chunk)

    def _write(self, data: bytes, start: int) -> None:
        view = memoryview(data)
        while view:
            count = os.pwrite(self.descriptor, view, start)
            view, start = view[count:], start + count

    @property
    def has_readers(self) -> bool:
        """Whether somebody reads behind us."""
        asked = _part(fcntl.F_WRLCK)
        found = fcntl.fcntl(self.descriptor, fcntl.F_OFD_GETLK, asked)
        kind: int = struct.unpack_from("h", found)[0]
        return kind != fcntl.F_UNLCK

    def complete(self) -> int:
        """Say that all frames are there; the bytes of them."""
        size = self.end - HEADER
        self._write(_header(size), 0)
        return size

    def publish(self) -> None:
        """Give it the name under which it is found.

        :raises OSError: if that is not possible.
        """
        os.rename(self._path, path_of(self._directory, self._key))
        self._named = False

    def abandon(self) -> None:
        """Remove its name, if that is not public, and release it.

        Whoever has it open reads on.
        """
        if self._named:
            self._named = False
            with contextlib.suppress(OSError):
                os.unlink(self._path)
        with contextlib.suppress(OSError):
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)


def _header(size: int) -> bytes:
    return _TITLE + b"%020d\n" % size


def _part(kind: int) -> bytes:
    """A ``struct flock`` for the byte that readers lock."""
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, _READERS, 1, 0)
