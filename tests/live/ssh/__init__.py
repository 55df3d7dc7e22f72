# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""Through real SSH servers, with real clients."""

from ... import loader_of

MODULES = (
    "test_attacks",
    "test_connection",
    "test_fido",
    "test_flow",
    "test_load",
    "test_logins",
    "test_paramiko",
    "test_server",
    "test_sshd",
    "test_stopping",
)

load_tests = loader_of(__name__, MODULES)
