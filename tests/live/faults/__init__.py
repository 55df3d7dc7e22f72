# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""What goes wrong: rubbish, kills, hangs, too little of everything."""

from ... import loader_of

MODULES = (
    "test_bodies",
    "test_chaos",
    "test_fuzz",
    "test_hanging",
    "test_memorylimit",
    "test_patience",
    "test_rehearsal",
    "test_socket_faults",
    "test_socket_walk",
    "test_trouble",
    "test_worker_errors",
)

load_tests = loader_of(__name__, MODULES)
