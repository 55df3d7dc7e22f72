# SPDX-License-Identifier: GPL-2.0-or-later

"""The tests of lpserve: 'brz selftest -s bp.lpserve'.

They lie as the modules of the plug-in do, the commands in ``blackbox``, and in ``live``
what takes real processes, signals and crashes.
"""

from . import knownstate

MODULES = (
    "test_access",
    "test_accessfile",
    "test_accesssyntax",
    "test_addresses",
    "test_channel",
    "test_codestamp",
    "test_filesystem",
    "test_forksibling",
    "test_knownstate",
    "test_location",
    "test_loginrules",
    "test_logs",
    "test_options",
    "test_outbox",
    "test_paths",
    "test_plugins",
    "test_report",
    "test_root",
    "test_scoreboard",
    "test_setup",
    "test_source",
    "test_sshstate",
    "test_succession",
    "test_system",
    "test_systemd",
    "test_wire",
    "client",
    "conch",
    "exporter",
    "installation",
    "packaging",
    "sandbox",
    "service",
    "serving",
    "ssh",
    "streams",
    "warm",
    "manual",
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
