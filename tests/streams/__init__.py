# SPDX-License-Identifier: GPL-2.0-or-later

"""What clients fetch."""

from .. import loader_of

MODULES = (
    "test_asking",
    "test_cutting",
    "test_kept",
    "test_keptfile",
    "test_key",
    "test_places",
    "test_progress",
    "test_source",
    "test_wrapping",
)

load_tests = loader_of(__name__, MODULES)
