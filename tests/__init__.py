# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""The tests of lpserve: 'brz selftest -s bp.lpserve'.

One module per module of the plug-in here, the commands in ``blackbox``, and in
``live`` what takes real processes, signals and crashes.
"""

MODULES = (
    "test_channel",
    "test_children",
    "test_conversation",
    "test_doors",
    "test_generation",
    "test_location",
    "test_loop",
    "test_options",
    "test_paths",
    "test_pool",
    "test_report",
    "test_serving",
    "test_source",
    "test_sshcommand",
    "test_system",
    "test_wire",
    "blackbox",
    "live",
)


def load_tests(loader, basic_tests, pattern):
    basic_tests.addTest(
        loader.loadTestsFromModuleNames([f"{__name__}.{name}" for name in MODULES])
    )
    return basic_tests
