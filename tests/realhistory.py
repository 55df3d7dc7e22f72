# SPDX-License-Identifier: GPL-2.0-or-later

"""Real history to try things on, which is no part of the project.

LPSERVE_TEST_DATA names its directory. What uses it does without where it is missing.
"""

import os

_HERE = os.path.dirname(os.path.abspath(__file__))
DIRECTORY = os.environ.get("LPSERVE_TEST_DATA") or os.path.join(
    os.path.dirname(os.path.dirname(_HERE)), "shared", "data"
)


def archive(name):
    """The path of the archive with the history of *name*, which may be missing."""
    return os.path.join(DIRECTORY, f"{name}-2a.tar.xz")
