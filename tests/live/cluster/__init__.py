# SPDX-License-Identifier: GPL-2.0-or-later

"""Several hosts behind HAProxy."""

from ... import loader_of

MODULES = ("test_cluster", "test_typed")

load_tests = loader_of(__name__, MODULES)
