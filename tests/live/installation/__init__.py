# SPDX-License-Identifier: GPL-2.0-or-later

"""'lp-serve-setup' on installations whose services run."""

from ... import loader_of

MODULES = ("test_check", "test_user")

load_tests = loader_of(__name__, MODULES)
