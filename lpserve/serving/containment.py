# SPDX-License-Identifier: GPL-2.0-or-later

"""Maps the paths of clients to files below the directory that is served.

Breezy joins and checks URL-encoded paths in several layers, and its local transport
decodes them last: ``..%2fname`` passes every check and becomes ``../name``. Here
`descend` decodes a path once, and the operating system gets exactly the path that was
checked. `ContainedTransport` replaces Breezy's layers (chroot, path filter, read-only).
Each operation of each transport of a connection passes each path to
`Containment.admit`.
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

from ..access import UserRules
from .links import lead_elsewhere
from .permits import FIXED, GET, HIDDEN, LOOK, MOVE, PUT, Permits

#: The length of a path, in bytes, that the system refuses (PATH_MAX).
_TOO_LONG = 4096

# Windows, where --inet works, has no such flag.
_AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
#: The bits of modes that a client may set: no setuid, and setgid for directories only.
_FILE_MODE, _DIRECTORY_MODE = 0o777, 0o2777

#: Paths that need no decoding: ASCII, without "%", and without "", "." or "..".
_NAME = r"(?!\.\.?(?:/|\Z))[^/%\0\x80-\U0010ffff]+"
_is_plain = re.compile(rf"{_NAME}(?:/{_NAME})*").fullmatch


def descend(place: str, relpath: str) -> str:
    """Join *place* and *relpath*; the path below the root.

    *place* and the result are decoded, have single slashes between names, and are ""
    for the root.

    :param relpath: a URL-encoded path, relative to *place*; to the root if it begins
        with a slash.
    :raises NoSuchFile: if a name is not UTF-8 or contains a slash or NUL, or if ".."
        leads above the root.
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


#: Numbers for schemes. Breezy's schemes reveal an address in memory to clients.
_numbers = itertools.count(1)


class Containment:
    """What the transports of a connection share; created without access to files.

    :ivar scheme: the start of the URLs of its transports; the path below the root
        follows.
    :ivar writable: whether clients may change files.
    :ivar permits: what the user may do; None: everything, as far as `writable` says.
    """

    def __init__(self, root: str, writable: bool):
        self.permits: Permits | None = None
        self._root = root
        url = urlutils.local_path_to_url(root)
        self.scheme = f"filtered-{next(_numbers)}:///"
        self.files = _Files(url, self.scheme)
        #: The same as with Breezy's layers.
        self.external_url = ("" if writable else "readonly+") + self.files.base
        self.writable = writable
        transport.register_transport(self.scheme, self._open)

    def close(self) -> None:
        """Unregister the scheme: its URLs cannot be opened any more."""
        transport.unregister_transport(self.scheme, self._open)

    def _open(self, url: str) -> ContainedTransport:
        return ContainedTransport(self, descend("", url[len(self.scheme) :]))

    def transport(self) -> ContainedTransport:
        """The transport of the root."""
        return ContainedTransport(self, "")

    def admit(self, path: str, access: str) -> str:
        """Check access to *path*; the path to use, with "~" and "~user" expanded.

        Both paths are decoded and relative to the root. A home directory is expanded
        if it is below the root.

        :param path: as `descend` returns it.
        :param access: `LOOK`, `GET`, `PUT` or `MOVE`.
        :raises TransportNotPossible: if the path must not be changed.
        :raises NoSuchFile: if the user must not know whether it exists.
        """
        path = self.expand(path)
        why = FIXED if access in (PUT, MOVE) and not self.writable else None
        if why is None and self.permits is not None:
            why = self.permits.refuse(path, access)
        if why is FIXED:
            raise errors.TransportNotPossible("readonly transport")
        # With one that is too long nothing happens, but it has an error of its own.
        if why is HIDDEN and len(os.fsencode(self.files._abspath(path))) < _TOO_LONG:
            raise NoSuchFile(self.scheme + path)
        return path

    def restrict(self, rules: UserRules) -> None:
        """Let the user do what *rules* say, and nothing else, from now on."""
        self.permits = Permits(rules, self._root)

    def expand(self, path: str) -> str:
        """*path*, or the path below the root of the home directory that it is."""
        if path[:1] != "~":
            return path
        # A name in it may be "", which no rule knows.
        expanded = os.path.normpath(os.path.expanduser(path)) + "/"
        root: str = self.files._local_base
        return expanded[len(root) :].strip("/") if expanded.startswith(root) else path


class _Files(LocalTransport):
    """Breezy's local transport for decoded paths.

    Its errors name the paths that the client knows. Their causes, in the log, name the
    paths of this host.
    """

    def __init__(self, url: str, scheme: str):
        super().__init__(url)
        self._scheme = scheme

    def _abspath(self, path: str) -> str:
        # With a slash at the end, lstat(2) would follow a link.
        return self._local_base + path if path else self._local_base.rstrip("/") or "/"

    #: Breezy uses it as the key in `transport._file_streams`.
    abspath = _abspath

    def get(self, path: str) -> Any:
        """See Breezy's; opening a FIFO does not block."""
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

    def list_dir(self, path: str, permits: Permits | None = None) -> list[str]:
        """The URL-encoded names, without those that are not UTF-8 or not permitted."""
        names = []
        try:
            if permits is None:
                found = os.listdir(self._abspath(path))
            else:
                with os.scandir(self._abspath(path)) as entries:
                    found = permits.shown(path, entries)
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
        # The text of *error* names the file.
        without_path = OSError(error.errno, error.strerror)
        super()._translate_error(without_path, self._scheme + path, raise_generic)
        raise error


def local_transport(path: str, possible_transports: Any = None) -> Any:
    """Breezy's ``get_transport_from_path``, except for the alternates of git.

    Breezy would open them relative to the working directory, and absolute ones.

    :raises NoSuchFile: for alternates, even if they exist.
    """
    if sys._getframe(1).f_globals["__name__"] == "breezy.git.transportgit":
        raise NoSuchFile(path)
    return _local_transport(path, possible_transports)


_local_transport = transport.get_transport_from_path


def _limited(mode: int | None, most: int) -> int | None:
    return None if mode is None else mode & most


class ContainedTransport(transport.Transport):
    """The transport of a directory below the root.

    :param containment: of the connection.
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
        """The path of the directory on this host."""
        return self._containment.files._abspath(self._use(".", GET))

    # -- places ----------------------------------------------------------------

    def clone(self, offset: str | None = None) -> ContainedTransport:
        """The transport of another directory."""
        if offset in ("..", "../"):
            # Breezy searches upwards until the transport does not change.
            place = self._place.rpartition("/")[0]
        else:
            place = descend(self._place, offset or ".")
        return ContainedTransport(self._containment, place)

    def abspath(self, relpath: str) -> str:
        """The URL of *relpath*; "~" is not expanded before it is used."""
        return self._url_of(descend(self._place, relpath))

    def external_url(self) -> str:
        """The URL of the root, as with Breezy's layers."""
        return self._containment.external_url

    # -- reading ---------------------------------------------------------------

    def is_readonly(self) -> bool:
        """Whether it must not be changed; for the root, whether nothing may be."""
        permits = self._containment.permits
        if permits is None or not self._place or not self._containment.writable:
            return not self._containment.writable
        return permits.is_fixed(self._containment.expand(self._place))

    def listable(self) -> bool:
        """Return True: directories can be listed."""
        return True

    def _can_roundtrip_unix_modebits(self) -> bool:
        return self._containment.files._can_roundtrip_unix_modebits()

    def has(self, relpath: str) -> bool:
        """Whether *relpath* exists; False for an invalid path."""
        try:
            path = self._use(relpath, LOOK)
        except NoSuchFile:
            return False
        return self._containment.files.has(path)

    def get(self, relpath: str) -> Any:
        """See Breezy's."""
        return self._containment.files.get(self._use(relpath, GET))

    def stat(self, relpath: str) -> Any:
        """See Breezy's."""
        return self._containment.files.stat(self._use(relpath, LOOK))

    def lock_read(self, relpath: str) -> Any:
        """See Breezy's."""
        return self._containment.files.lock_read(self._use(relpath, GET))

    def list_dir(self, relpath: str) -> list[str]:
        """See Breezy's."""
        permits = self._containment.permits
        return self._containment.files.list_dir(self._use(relpath, LOOK), permits)

    def iter_files_recursive(self) -> Iterator[str]:
        """The URL-encoded paths of the files below the directory."""
        queue = self.list_dir(".")
        while queue:
            relpath = queue.pop(0)
            if S_ISDIR(self.stat(relpath).st_mode):
                queue[:0] = [f"{relpath}/{name}" for name in self.list_dir(relpath)]
            else:
                yield relpath

    # -- writing ---------------------------------------------------------------
    # Breezy implements the others (put_bytes, copy, move, delete_tree...) with these.

    def _entry(self, relpath: str, access: str = PUT) -> str:
        """The path for an operation that changes an entry of a directory.

        :raises PermissionDenied: for the root, because its entry, and a temporary
            file beside it, are outside.
        """
        path = self._use(relpath, access)
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
        try:
            path = self._use(relpath, PUT)
        except errors.TransportNotPossible:
            # Who makes the directories above one that may be written asks for all.
            if self._containment.writable and self.has(relpath):
                raise FileExists(self.abspath(relpath)) from None
            raise
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
        """See Breezy's; but a link in it must not lead elsewhere from there."""
        old, new = self._entry(rel_from, MOVE), self._entry(rel_to, MOVE)
        files = self._containment.files
        moved = os.path.dirname(old) != os.path.dirname(new)
        if moved and lead_elsewhere(files.abspath(old)):
            raise errors.PermissionDenied(self._containment.scheme + old)
        files.rename(old, new)

    def move(self, rel_from: str, rel_to: str) -> None:
        """See Breezy's, which copies first."""
        for relpath in (rel_from, rel_to):
            self._entry(relpath, MOVE)
        super().move(rel_from, rel_to)

    def rmdir(self, relpath: str) -> None:
        """See Breezy's."""
        self._containment.files.rmdir(self._entry(relpath))
