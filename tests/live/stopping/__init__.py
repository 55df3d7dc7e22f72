# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""Services that start, reload and stop."""

from ... import loader_of

MODULES = (
    "test_embedded",
    "test_exhausted",
    "test_life",
    "test_runtime_directory",
    "test_starting",
    "test_stopping",
    "test_who_asked",
)

load_tests = loader_of(__name__, MODULES)
