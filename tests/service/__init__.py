# SPDX-License-Identifier: GPL-2.0-or-later

"""The service and what it is made of."""

from .. import loader_of

MODULES = (
    "test_accesslog",
    "test_accounts",
    "test_activation",
    "test_admission",
    "test_agent",
    "test_children",
    "test_demand",
    "test_doors",
    "test_drain",
    "test_floods",
    "test_generation",
    "test_histograms",
    "test_loop",
    "test_pool",
    "test_shortage",
    "test_socketdoor",
    "test_socketdoor_life",
    "test_streams",
    "test_streamstore",
    "test_stuck",
    "test_takeover",
    "test_usages",
    "test_verbs",
    "test_warmer",
    "test_warmset",
    "test_warmstore",
)

load_tests = loader_of(__name__, MODULES)
