# SPDX-License-Identifier: GPL-2.0-or-later

"""An administrator limits, watches and drains a service."""

from ... import loader_of

MODULES = (
    "test_drain",
    "test_health",
    "test_limits",
    "test_locks",
    "test_refusal",
)

load_tests = loader_of(__name__, MODULES)
