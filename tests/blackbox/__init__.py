# SPDX-License-Identifier: GPL-2.0-or-later

"""Tests of the commands, as a user types them."""

from .. import loader_of

MODULES = (
    "test_configuration",
    "test_help",
    "test_lp_serve",
    "test_lp_serve_client",
    "test_lp_serve_control",
    "test_lp_serve_ssh",
)

load_tests = loader_of(__name__, MODULES)
