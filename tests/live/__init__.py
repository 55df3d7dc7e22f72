# SPDX-License-Identifier: GPL-2.0-or-later

"""Tests with real processes, signals and crashes."""

from .. import loader_of

MODULES = (
    "access",
    "accounts",
    "client",
    "cluster",
    "conch",
    "faults",
    "metrics",
    "installation",
    "operating",
    "sandbox",
    "spawning",
    "ssh",
    "stopping",
    "streams",
    "systemd",
    "upgrading",
    "warm",
)

load_tests = loader_of(__name__, MODULES)
