# SPDX-License-Identifier: GPL-2.0-or-later

"""Workers as processes of Twisted."""

from .. import loader_of

MODULES = (
    "test_asking",
    "test_fifos",
    "test_pipes",
)

load_tests = loader_of(__name__, MODULES)
