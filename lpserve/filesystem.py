# SPDX-License-Identifier: GPL-2.0-or-later

"""Which file system a path is on: one of this host, or one that others change too."""

from __future__ import annotations

import ctypes
import os

#: By ``f_type`` of statfs(2), from linux/magic.h and the sources of the file systems.
NETWORK = {
    0x6969: "NFS",
    0x517B: "SMB",
    0xFE534D42: "SMB",
    0xFF534D42: "CIFS",
    0x01021997: "9p",
    0x65735546: "FUSE",
    0x00C36400: "Ceph",
    0x5346414F: "AFS",
    0x6B414653: "AFS",
    0x73757245: "Coda",
    0x0BD00BD0: "Lustre",
    0x47504653: "GPFS",
    0x7461636F: "OCFS2",
    0x01161970: "GFS2",
}


def network_file_system(path: str) -> str | None:
    """What kind of network file system *path* is on; None if it is on none.

    FUSE counts as one, because nothing tells what is behind it.

    :raises OSError: if statfs(2) fails.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    found = ctypes.create_string_buffer(512)
    if libc.statfs(os.fsencode(path), found):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    # A long on most machines, of which 32 bits are used.
    kind = ctypes.c_long.from_buffer(found).value & 0xFFFFFFFF
    return NETWORK.get(kind)
