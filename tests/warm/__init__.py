# SPDX-License-Identifier: GPL-2.0-or-later

"""Repositories in memory."""

from .. import loader_of

MODULES = (
    "test_memory",
    "test_revisiongraph",
)

load_tests = loader_of(__name__, MODULES)
