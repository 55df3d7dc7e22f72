# SPDX-License-Identifier: GPL-2.0-or-later

"""What the kernel lets a process do that serves connections."""

from .. import loader_of

MODULES = (
    "test_confine",
    "test_landlock",
    "test_sandbox",
)

load_tests = loader_of(__name__, MODULES)
