# SPDX-License-Identifier: GPL-2.0-or-later

"""Whether the code of lpserve has changed since a service has read it."""

from __future__ import annotations

import contextlib
import hashlib
import os


def code_stamp() -> str:
    """What changes whenever the code of lpserve does."""
    top = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    # Beside the package is the plug-in, which has the version.
    paths = [os.path.join(os.path.dirname(top), "__init__.py")]
    for directory, _, names in os.walk(top):
        paths += [os.path.join(directory, each) for each in names]
    digest = hashlib.sha256()
    for path in sorted(each for each in paths if each.endswith(".py")):
        with contextlib.suppress(OSError):
            found = os.stat(path)
            digest.update(f"{path} {found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()
