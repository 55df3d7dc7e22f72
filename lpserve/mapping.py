# SPDX-License-Identifier: GPL-2.0-or-later

"""Files in memory, without a descriptor."""

from __future__ import annotations

import ctypes
import mmap
import os

_libc = ctypes.PyDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    *(ctypes.c_int,) * 3,
    ctypes.c_long,
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_MAP_FAILED = ctypes.c_void_p(-1).value


class Mapping:
    """A file in memory, shared with whoever else has mapped it.

    Python's own mmap keeps a descriptor open, in each process that inherits it.

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
        _libc.munmap(self._address, self._size)
