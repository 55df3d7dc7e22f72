# SPDX-License-Identifier: GPL-2.0-or-later

"""What 'lp-serve-setup' does."""

from .. import loader_of

MODULES = (
    "test_broken",
    "test_editing",
    "test_publickeys",
    "test_templates",
    "test_unitfiles",
    "test_users",
)

load_tests = loader_of(__name__, MODULES)
