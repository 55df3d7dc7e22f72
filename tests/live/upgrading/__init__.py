# SPDX-License-Identifier: GPL-2.0-or-later

"""A running service is replaced by a new process, and nobody notices."""

from ... import loader_of

MODULES = ("test_kinds", "test_load", "test_ssh", "test_upgrade")

load_tests = loader_of(__name__, MODULES)
