# SPDX-License-Identifier: GPL-2.0-or-later

"""Repositories in memory: real loaders and workers."""

from ... import loader_of

MODULES = (
    "test_loaders",
    "test_walk",
    "test_warm",
)

load_tests = loader_of(__name__, MODULES)
