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

from . import knownstate

MODULES = (
    "test_answers",
    "test_asking",
    "test_attendance",
    "test_authorizedkeys",
    "test_channel",
    "test_children",
    "test_containment",
    "test_confine",
    "test_conversation",
    "test_demand",
    "test_doors",
    "test_fifos",
    "test_floods",
    "test_forksibling",
    "test_generation",
    "test_gitalternates",
    "test_keydirectory",
    "test_keyindex",
    "test_knownstate",
    "test_landlock",
    "test_location",
    "test_loginrules",
    "test_logs",
    "test_loop",
    "test_medium",
    "test_options",
    "test_paths",
    "test_pipes",
    "test_plugins",
    "test_pool",
    "test_report",
    "test_root",
    "test_revisiongraph",
    "test_sandbox",
    "test_serving",
    "test_setup",
    "test_shortage",
    "test_socketconversation",
    "test_socketdoor",
    "test_socketdoor_life",
    "test_source",
    "test_sshcommand",
    "test_sshkeys",
    "test_sshlimits",
    "test_sshrecord",
    "test_sshstart",
    "test_stuck",
    "test_system",
    "test_warm",
    "test_warmer",
    "test_warmset",
    "test_wire",
    "test_wrapping",
    "blackbox",
    "live",
)


def loader_of(package, modules):
    """A ``load_tests`` for *package*, with the tests of *modules* in it."""

    def load_tests(loader, basic_tests, pattern):
        names = [f"{package}.{name}" for name in modules]
        basic_tests.addTest(loader.loadTestsFromModuleNames(names))
        return basic_tests

    return load_tests


def load_tests(loader, basic_tests, pattern):
    """Add all tests, which are about to be run."""
    knownstate.enter()
    return loader_of(__name__, MODULES)(loader, basic_tests, pattern)
