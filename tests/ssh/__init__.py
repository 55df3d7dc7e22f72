# SPDX-License-Identifier: GPL-2.0-or-later

"""The SSH server."""

from .. import loader_of

MODULES = (
    "test_authorizedkeys",
    "test_figures",
    "test_gate",
    "test_keydirectory",
    "test_keyindex",
    "test_keys",
    "test_limits",
    "test_listening",
    "test_predecessor",
    "test_processes",
    "test_proxyheader",
    "test_record",
    "test_start",
    "test_upgrades",
)

load_tests = loader_of(__name__, MODULES)
