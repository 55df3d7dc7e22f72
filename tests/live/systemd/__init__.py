# SPDX-License-Identifier: GPL-2.0-or-later

"""Services that systemd starts, as far as a test can play it."""

from ... import loader_of

MODULES = (
    "test_activated",
    "test_kept",
    "test_notify",
    "test_units",
    "test_upgraded",
)

load_tests = loader_of(__name__, MODULES)
