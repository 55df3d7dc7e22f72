# SPDX-License-Identifier: GPL-2.0-or-later

"""Access rules: workers and ``--inet``, edits while the service runs."""

from ... import loader_of

MODULES = ("test_access",)

load_tests = loader_of(__name__, MODULES)
