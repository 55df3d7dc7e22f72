# SPDX-License-Identifier: GPL-2.0-or-later

"""What workers and clients can reach."""

from ... import loader_of

MODULES = (
    "test_containment",
    "test_life",
    "test_sandbox",
)

load_tests = loader_of(__name__, MODULES)
