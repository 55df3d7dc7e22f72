# SPDX-License-Identifier: GPL-2.0-or-later

"""Files in memory, without a descriptor."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from collections.abc import Iterator

_libc = ctypes.PyDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    *(ctypes.c_int,) * 3,
    ctypes.c_long,
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_MAP_FAILED = ctypes.c_void_p(-1).value


class Mapping:
    """A file in memory, shared with whoever else has mapped it.

    Python's own mmap keeps a descriptor open, in each process that inherits it.

    :param descriptor: of the file, which may be closed afterwards.
    :param writable: whether it may be changed through `view`.
    :ivar view: its bytes; not to be used after `close`.
    :raises OSError: if it cannot be mapped.
    """

    def __init__(self, descriptor: int, writable: bool = False):
        self._size = os.fstat(descriptor).st_size
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self._address = _libc.mmap(
            None, self._size, protection, mmap.MAP_SHARED, descriptor, 0
        )
        if self._address in (None, _MAP_FAILED):
            fault = ctypes.get_errno()
            raise OSError(fault, os.strerror(fault))
        whole = (ctypes.c_char * self._size).from_address(self._address)
        view = memoryview(whole).cast("B")
        self.view = view if writable else view.toreadonly()

    def close(self) -> None:
        """Unmap it, after the last view of it was released."""
        self.view.release()
        _libc.munmap(self._address, self._size)

    def hide(self) -> None:
        """Have children that are forked from now on not have it (madvise(2)).

        :raises OSError: if that cannot be.
        """
        self._advise(mmap.MADV_DONTFORK, 0, self._size)

    @contextlib.contextmanager
    def lend(self, start: int, size: int) -> Iterator[memoryview]:
        """Let a child that is forked now have a part of what is hidden.

        :param start, size: of the part; multiples of the size of a page.
        :returns: the bytes of the part.
        :raises OSError: if that cannot be.
        """
        self._advise(mmap.MADV_DOFORK, start, size)
        try:
            yield self.view[start : start + size]
        finally:
            self._advise(mmap.MADV_DONTFORK, start, size)

    def _advise(self, advice: int, start: int, size: int) -> None:
        if _libc.madvise(self._address + start, size, advice):
            fault = ctypes.get_errno()
            raise OSError(fault, os.strerror(fault))
