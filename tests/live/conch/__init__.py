# SPDX-License-Identifier: GPL-2.0-or-later

"""Workers as processes of a real reactor."""

from ... import loader_of

MODULES = (
    "test_conch",
    "test_fallback",
    "test_faults",
    "test_flow",
)

load_tests = loader_of(__name__, MODULES)
