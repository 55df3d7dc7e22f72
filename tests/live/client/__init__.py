# SPDX-License-Identifier: GPL-2.0-or-later

"""The clients, that in Python and that in C."""

from ... import loader_of

MODULES = (
    "test_client",
    "test_client_gone",
    "test_native",
    "test_native_fuzz",
    "test_native_memory",
    "test_native_parsing",
    "test_relay",
)

load_tests = loader_of(__name__, MODULES)
