# SPDX-License-Identifier: GPL-2.0-or-later

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
