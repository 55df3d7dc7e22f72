# SPDX-License-Identifier: GPL-2.0-or-later

"""Who is there, who was, and what is told of them."""

from ... import loader_of

MODULES = (
    "test_accesslog",
    "test_agreement",
    "test_connections",
    "test_ending",
)

load_tests = loader_of(__name__, MODULES)
