# SPDX-License-Identifier: GPL-2.0-or-later

"""Changes a file of keys at once and as a whole, alone among those who edit it.

The directory is opened, and all else is done relative to it, so that whoever may
rename it cannot lead a command of root to another one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat

from ..errors import LpserveError, os_fault
from .modes import describe, is_changeable

#: Bytes of a file that is edited.
MOST = 1 << 20


class EditError(LpserveError):
    """A file cannot be edited; ``str()`` is one line."""


class Editor:
    """A directory that is locked while its files are edited; a context manager.

    :param path: of the directory, absolute.
    :param owners: the uids one of which must own it.
    :param create: the uid and gid that it is created for with mode 0700 if it is
        missing; None: it must be there.
    :raises EditError: if it cannot be used, or others can change what is in it.
    """

    def __init__(
        self, path: str, owners: tuple[int, ...], create: tuple[int, int] | None = None
    ):
        self.path = path
        self._owners = owners
        try:
            if create is not None and not os.path.lexists(path):
                if os.geteuid() == create[0]:
                    os.makedirs(path, 0o700)
                else:
                    os.mkdir(path, 0o700)
                    os.chown(path, *create, follow_symlinks=False)
            self._directory = os.open(
                path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            )
        except OSError as error:
            if os.path.islink(path):
                raise EditError(
                    f"{path} is a link; name the directory itself"
                ) from None
            raise EditError(os_fault(error)) from None
        try:
            self._check(os.fstat(self._directory), path)
            # Also those who make other files in it wait.
            fcntl.flock(self._directory, fcntl.LOCK_EX)
        except BaseException:
            os.close(self._directory)
            raise

    def __enter__(self) -> Editor:
        return self

    def __exit__(self, *ignored: object) -> None:
        os.close(self._directory)

    def _check(self, found: os.stat_result, path: str) -> None:
        if found.st_uid not in self._owners:
            raise EditError(
                f"{path} is owned by uid {found.st_uid}: whoever that is could change "
                "who is let in"
            )
        if is_changeable(found):
            raise EditError(
                f"{path} is writable by others ({describe(found)}), so SSH servers "
                f"ignore it: chmod go-w {path}"
            )

    def names(self) -> list[str]:
        """The names in the directory."""
        return sorted(os.listdir(self._directory))

    def read(self, name: str) -> str | None:
        """The text of a file; None if there is none.

        :raises EditError: if it cannot be read, is not a file, or others can
            change it.
        """
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        path = os.path.join(self.path, name)
        try:
            with open(os.open(name, flags, dir_fd=self._directory), "rb") as file:
                found = os.fstat(file.fileno())
                if not stat.S_ISREG(found.st_mode):
                    raise EditError(f"{path} is not a file")
                self._check(found, path)
                data = file.read(MOST + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            with contextlib.suppress(OSError):
                at = os.lstat(name, dir_fd=self._directory)
                if stat.S_ISLNK(at.st_mode):
                    raise EditError(
                        f"{path} is a link; edit what it leads to"
                    ) from None
            raise EditError(f"{path}: {error.strerror}") from None
        if len(data) > MOST:
            raise EditError(f"{path} is longer than {MOST} bytes")
        return data.decode("utf-8", "surrogateescape")

    def write(
        self, name: str, text: str, mode: int, owner: tuple[int, int] | None = None
    ) -> None:
        """Replace a file, which keeps owner and mode, or make it.

        :param mode: of a new file.
        :param owner: uid and gid of a new file; None means ours.
        :raises EditError: if that cannot be done; then nothing has changed.
        """
        with contextlib.suppress(FileNotFoundError):
            before = os.lstat(name, dir_fd=self._directory)
            mode, owner = stat.S_IMODE(before.st_mode), (before.st_uid, before.st_gid)
        # No SSH server takes it for the file of a user.
        temporary = f".{name}.{os.getpid()}.tmp"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        try:
            try:
                number = os.open(temporary, flags, 0o600, dir_fd=self._directory)
                with open(number, "wb") as file:
                    file.write(text.encode("utf-8", "surrogateescape"))
                    file.flush()
                    made = os.fstat(number)
                    if owner not in (None, (made.st_uid, made.st_gid)):
                        assert owner is not None
                        os.fchown(number, *owner)
                    os.fchmod(number, mode)
                    os.fsync(number)
                both = {"src_dir_fd": self._directory, "dst_dir_fd": self._directory}
                os.rename(temporary, name, **both)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=self._directory)
                raise
            os.fsync(self._directory)
        except OSError as error:
            raise EditError(f"{self.path}/{name}: {error.strerror}") from None

    def remove(self, name: str) -> None:
        """Remove a file.

        :raises EditError: if that cannot be done.
        """
        try:
            os.unlink(name, dir_fd=self._directory)
            os.fsync(self._directory)
        except OSError as error:
            raise EditError(f"{self.path}/{name}: {error.strerror}") from None
