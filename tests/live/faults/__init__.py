# SPDX-License-Identifier: GPL-2.0-or-later

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
    "test_trouble",
    "test_worker_errors",
)

load_tests = loader_of(__name__, MODULES)
