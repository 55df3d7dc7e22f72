# SPDX-License-Identifier: GPL-2.0-or-later

"""What is distributed: source, wheels, Debian's package, completion.

That they install and work is tried by "make check-packages", which takes long.
"""

from .. import loader_of

MODULES = (
    "test_completion",
    "test_debian",
    "test_dist",
)

load_tests = loader_of(__name__, MODULES)
