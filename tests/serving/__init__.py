# SPDX-License-Identifier: GPL-2.0-or-later

"""A connection on two descriptors."""

from .. import loader_of

MODULES = (
    "test_adaptation",
    "test_answers",
    "test_containment",
    "test_gitalternates",
    "test_knowncode",
    "test_patience",
    "test_permits",
    "test_permits_branches",
    "test_smartserver",
)

load_tests = loader_of(__name__, MODULES)
