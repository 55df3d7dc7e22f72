# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""Requests, and the workers that they are answered with."""

from ... import loader_of

MODULES = (
    "test_hard_requests",
    "test_requests",
    "test_reset",
    "test_reset_breezy",
    "test_service",
    "test_socket",
    "test_spare_files",
    "test_spares",
    "test_spawning",
    "test_user",
)

load_tests = loader_of(__name__, MODULES)
