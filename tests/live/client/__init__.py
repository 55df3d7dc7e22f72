# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

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
