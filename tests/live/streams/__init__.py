# SPDX-License-Identifier: GPL-2.0-or-later

"""Kept streams: real services and clients."""

from ... import loader_of

MODULES = ("test_clones", "test_keeping", "test_walk")

load_tests = loader_of(__name__, MODULES)
