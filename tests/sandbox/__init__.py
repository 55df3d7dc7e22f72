# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""What the kernel lets a process do that serves connections."""

from .. import loader_of

MODULES = (
    "test_confine",
    "test_landlock",
    "test_sandbox",
)

load_tests = loader_of(__name__, MODULES)
