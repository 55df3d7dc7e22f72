# SPDX-License-Identifier: GPL-2.0-or-later

"""Through real SSH servers, with real clients."""

from ... import loader_of

MODULES = (
    "test_attacks",
    "test_connection",
    "test_fido",
    "test_flow",
    "test_haproxy",
    "test_load",
    "test_logins",
    "test_processes",
    "test_proxies",
    "test_server",
    "test_sshd",
    "test_stopping",
)

load_tests = loader_of(__name__, MODULES)
