# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""A connection on two descriptors."""

from .. import loader_of

MODULES = (
    "test_answers",
    "test_containment",
    "test_gitalternates",
    "test_medium",
    "test_smartserver",
)

load_tests = loader_of(__name__, MODULES)
