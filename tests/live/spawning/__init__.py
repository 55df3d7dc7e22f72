# SPDX-License-Identifier: GPL-2.0-or-later

"""Requests, and the workers that they are answered with."""

from ... import loader_of

MODULES = (
    "test_hard_requests",
    "test_requests",
    "test_reset",
    "test_reset_breezy",
    "test_socket",
    "test_spare_files",
    "test_spares",
    "test_spawning",
    "test_user",
)

load_tests = loader_of(__name__, MODULES)
