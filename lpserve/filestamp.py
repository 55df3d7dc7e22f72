# SPDX-License-Identifier: GPL-2.0-or-later

"""What changes whenever a file does."""

from __future__ import annotations

import os

#: st_dev, st_ino, st_size, st_mtime_ns, st_ctime_ns.
FileStamp = tuple[int, int, int, int, int]


def stamp_of(found: os.stat_result) -> FileStamp:
    """The stamp of a file.

    No process can set the ctime. But where a file system has coarse times, another
    change within the same tick leaves the same stamp: see who uses it.
    """
    return (
        found.st_dev,
        found.st_ino,
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
    )
