# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

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
