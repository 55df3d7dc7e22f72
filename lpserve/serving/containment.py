# SPDX-License-Identifier: GPL-2.0-or-later

"""Keep a connection inside the directory that it is served.

Breezy joins and checks paths while they are URL-encoded, in one layer after the other,
and its local transport decodes them at last: ``..%2fname`` passes every check and is
``../name`` then. Here a path is decoded once, by `descend`, and what is checked is
what the operating system gets. `ContainedTransport` takes the place of Breezy's layers
(chroot, path filter, read-only): each operation of each transport of a connection
asks `Containment.admit` about each of its paths.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
from collections.abc import Iterator
from stat import S_ISDIR, S_ISREG
from typing import Any, NoReturn
from urllib.parse import unquote_to_bytes

from breezy import errors, transport, urlutils
from breezy.transport import FileExists, LateReadError, NoSuchFile
from breezy.transport.local import LocalTransport

#: What an operation does with a path: reads the file or looks at it, changes it or its
#: entry in a directory, lists the directory.
READ, WRITE, LIST = "read", "write", "list"

# Windows, where --inet works, has no such flag.
_AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
#: What a client may choose of modes: no file is run as another user.
_FILE_MODE, _DIRECTORY_MODE = 0o777, 0o2777

#: Paths that mean what they look like: ASCII, nothing encoded, no "", "." or "..".
_NAME = r"(?!\.\.?(?:/|\Z))[^/%\0\x80-\U0010ffff]+"
_is_plain = re.compile(rf"{_NAME}(?:/{_NAME})*").fullmatch


def descend(place: str, relpath: str) -> str:
    """The path below the root that *relpath* leads to from *place*.

    Both paths returned and taken as *place* are decoded, have names separated by
    single slashes, and are empty for the root.

    :param relpath: a URL-encoded path; one that begins with a slash is from the root.
    :raises NoSuchFile: if it is no plain descent: a name that is not UTF-8 or has a
        slash or NUL in it, or more ".." than there are names to leave.
    """
    if relpath in (".", ""):
        return place
    if isinstance(relpath, str) and _is_plain(relpath):
        return f"{place}/{relpath}" if place else relpath
    return _descend_slowly(place, relpath)


def _descend_slowly(place: str, relpath: str) -> str:
    try:
        words = relpath.encode("ascii").decode().split("/")
        names = place.split("/") if place and words[0] else []
        for word in words:
            name = unquote_to_bytes(word).decode() if "%" in word else word
            if name == "..":
                names.pop()
            elif "/" in name or "\0" in name:
                raise ValueError(name)
            elif name not in ("", "."):
                names.append(name)
    except (AttributeError, ValueError, IndexError):
        raise NoSuchFile(relpath) from None
    return "/".join(names)


#: One for each scheme; Breezy's have an address in memory, which clients get to see.
_numbers = itertools.count(1)


class Containment:
    """What the transports of a connection have in common.

    It is made without touching a file.

    :ivar scheme: what the URLs of its transports begin with; what is below is the
        path below the root.
    :ivar writable: whether anything may be changed.
    """

    def __init__(self, root: str, writable: bool):
        url = urlutils.local_path_to_url(root)
        self.scheme = f"filtered-{next(_numbers)}:///"
        self.files = _Files(url, self.scheme)
        #: As Breezy's layers have it.
        self.external_url = ("" if writable else "readonly+") + self.files.base
        self.writable = writable
        transport.register_transport(self.scheme, self._open)

    def close(self) -> None:
        """Forget the scheme; transports of it cannot be opened by URL any more."""
        transport.unregister_transport(self.scheme, self._open)

    def _open(self, url: str) -> ContainedTransport:
        return ContainedTransport(self, descend("", url[len(self.scheme) :]))

    def transport(self) -> ContainedTransport:
        """The transport of the root."""
        return ContainedTransport(self, "")

    def admit(self, path: str, access: str) -> str:
        """The path of the file to use for *path*, both decoded and below the root.

        They differ for "~" and "~user" where that is a home directory below the root.

        :param path: as `descend` returns it.
        :param access: `READ`, `WRITE` or `LIST`.
        :raises TransportNotPossible: if nothing may be changed.
        """
        if path[:1] == "~":
            path = self._expand(path)
        if access is WRITE and not self.writable:
            raise errors.TransportNotPossible("readonly transport")
        return path

    def _expand(self, path: str) -> str:
        expanded = os.path.expanduser(path) + "/"
        root: str = self.files._local_base
        return expanded[len(root) :].strip("/") if expanded.startswith(root) else path


class _Files(LocalTransport):
    """Breezy's local transport, for paths that are decoded already.

    Errors name paths as clients know them; the log has the others, as the cause.
    """

    def __init__(self, url: str, scheme: str):
        super().__init__(url)
        self._scheme = scheme

    def _abspath(self, path: str) -> str:
        # A slash at the end would have lstat follow a link.
        return self._local_base + path if path else self._local_base.rstrip("/") or "/"

    #: The key of a file that is open for writing.
    abspath = _abspath

    def get(self, path: str) -> Any:
        """See Breezy's; but nobody waits for the other end of a FIFO."""
        if (name := self._abspath(path)) in transport._file_streams:
            transport._file_streams[name].flush()
        try:
            descriptor = os.open(name, os.O_RDONLY | _AT_ONCE)
            if S_ISREG(os.fstat(descriptor).st_mode):
                return open(descriptor, "rb")
        except OSError as error:
            self._translate_error(error, path)
        directory = S_ISDIR(os.fstat(descriptor).st_mode)
        os.close(descriptor)
        if directory:
            return LateReadError(path)
        raise errors.PermissionDenied(self._scheme + path)

    def list_dir(self, path: str) -> list[str]:
        """The names, encoded; without those that no path can lead to."""
        names = []
        try:
            found = os.listdir(self._abspath(path))
        except OSError as error:
            self._translate_error(error, path)
        for name in found:
            try:
                names.append(urlutils.escape(name))
            except UnicodeEncodeError:
                continue
        return names

    def _translate_error(
        self, error: OSError, path: str, raise_generic: bool = True
    ) -> NoReturn:
        if path.startswith(self._local_base):
            path = path[len(self._local_base) :]
        elif path == self._abspath(""):
            path = ""
        # Its own text names the file.
        without_path = OSError(error.errno, error.strerror)
        super()._translate_error(without_path, self._scheme + path, raise_generic)
        raise error


def local_transport(path: str, possible_transports: Any = None) -> Any:
    """Breezy's ``get_transport_from_path``, but not for what a git repository names.

    The alternates of one are looked for from the current directory.

    :raises NoSuchFile: whether it is there or not.
    """
    if sys._getframe(1).f_globals["__name__"] == "breezy.git.transportgit":
        raise NoSuchFile(path)
    return _local_transport(path, possible_transports)


_local_transport = transport.get_transport_from_path


def _limited(mode: int | None, most: int) -> int | None:
    return None if mode is None else mode & most


class ContainedTransport(transport.Transport):
    """A directory below the root, and what is below that.

    :param containment: the root, and what may be done there.
    :param place: the path of the directory, as `descend` returns it.
    """

    def __init__(self, containment: Containment, place: str):
        self._containment = containment
        self._place = place
        super().__init__(self._url_of(place) + ("/" if place else ""))

    def _url_of(self, path: str) -> str:
        return self._containment.scheme + urlutils.escape(path)

    def _use(self, relpath: str, access: str) -> str:
        return self._containment.admit(descend(self._place, relpath), access)

    @property
    def root(self) -> str:
        """The path of the root on this host."""
        return self._containment.files._abspath("")

    def directory(self) -> str:
        """Its own path on this host."""
        return self._containment.files._abspath(self._use(".", READ))

    # -- places ----------------------------------------------------------------

    def clone(self, offset: str | None = None) -> ContainedTransport:
        """The transport of another directory."""
        if offset in ("..", "../"):
            # Breezy looks upwards until there is no change.
            place = self._place.rpartition("/")[0]
        else:
            place = descend(self._place, offset or ".")
        return ContainedTransport(self._containment, place)

    def abspath(self, relpath: str) -> str:
        """The URL of *relpath*; with "~" as it is, to be expanded when it is used."""
        return self._url_of(descend(self._place, relpath))

    def external_url(self) -> str:
        """As Breezy's layers have it: that of the root."""
        return self._containment.external_url

    # -- what there is ---------------------------------------------------------

    def is_readonly(self) -> bool:
        """Whether nothing may be changed."""
        return not self._containment.writable

    def listable(self) -> bool:
        """Directories can be listed."""
        return True

    def _can_roundtrip_unix_modebits(self) -> bool:
        return self._containment.files._can_roundtrip_unix_modebits()

    def has(self, relpath: str) -> bool:
        """Whether it is there; what is no path is not."""
        try:
            path = self._use(relpath, READ)
        except NoSuchFile:
            return False
        return self._containment.files.has(path)

    def get(self, relpath: str) -> Any:
        """See Breezy's."""
        return self._containment.files.get(self._use(relpath, READ))

    def stat(self, relpath: str) -> Any:
        """See Breezy's."""
        return self._containment.files.stat(self._use(relpath, READ))

    def lock_read(self, relpath: str) -> Any:
        """See Breezy's."""
        return self._containment.files.lock_read(self._use(relpath, READ))

    def list_dir(self, relpath: str) -> list[str]:
        """See Breezy's."""
        return self._containment.files.list_dir(self._use(relpath, LIST))

    def iter_files_recursive(self) -> Iterator[str]:
        """The encoded paths of the files below it."""
        queue = self.list_dir(".")
        while queue:
            relpath = queue.pop(0)
            if S_ISDIR(self.stat(relpath).st_mode):
                queue[:0] = [f"{relpath}/{name}" for name in self.list_dir(relpath)]
            else:
                yield relpath

    # -- what changes it -------------------------------------------------------
    # The others (put_bytes, copy, move, delete_tree...) are Breezy's, made of these.

    def _entry(self, relpath: str) -> str:
        """The path of something whose entry in its directory may be changed.

        :raises PermissionDenied: for the root: its entry, and a temporary file beside
            it, are outside.
        """
        path = self._use(relpath, WRITE)
        if not path:
            raise errors.PermissionDenied(self._containment.scheme)
        return path

    def append_file(self, relpath: str, f: Any, mode: Any = None) -> Any:
        """See Breezy's."""
        mode = _limited(mode, _FILE_MODE)
        return self._containment.files.append_file(self._entry(relpath), f, mode)

    def delete(self, relpath: str) -> None:
        """See Breezy's."""
        self._containment.files.delete(self._entry(relpath))

    def lock_write(self, relpath: str) -> Any:
        """See Breezy's."""
        return self._containment.files.lock_write(self._entry(relpath))

    def mkdir(self, relpath: str, mode: Any = None) -> None:
        """See Breezy's."""
        path = self._use(relpath, WRITE)
        if not path:
            raise FileExists(self._containment.scheme)
        self._containment.files.mkdir(path, _limited(mode, _DIRECTORY_MODE))

    def open_write_stream(self, relpath: str, mode: Any = None) -> Any:
        """See Breezy's."""
        mode = _limited(mode, _FILE_MODE)
        return self._containment.files.open_write_stream(self._entry(relpath), mode)

    def put_file(self, relpath: str, f: Any, mode: Any = None) -> Any:
        """See Breezy's."""
        mode = _limited(mode, _FILE_MODE)
        return self._containment.files.put_file(self._entry(relpath), f, mode)

    def rename(self, rel_from: str, rel_to: str) -> None:
        """See Breezy's."""
        self._containment.files.rename(self._entry(rel_from), self._entry(rel_to))

    def rmdir(self, relpath: str) -> None:
        """See Breezy's."""
        self._containment.files.rmdir(self._entry(relpath))
