# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""The service and what it is made of."""

from .. import loader_of

MODULES = (
    "test_attendance",
    "test_children",
    "test_demand",
    "test_doors",
    "test_floods",
    "test_generation",
    "test_loop",
    "test_pool",
    "test_shortage",
    "test_socketdoor",
    "test_socketdoor_life",
    "test_stuck",
    "test_warmer",
    "test_warmset",
)

load_tests = loader_of(__name__, MODULES)
