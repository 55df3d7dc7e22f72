# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""Tests with real processes, signals and crashes."""

from .. import loader_of

MODULES = (
    "test_bodies",
    "test_chaos",
    "test_client",
    "test_client_gone",
    "test_conch",
    "test_conch_fallback",
    "test_conch_faults",
    "test_conch_flow",
    "test_containment",
    "test_embedded",
    "test_exhausted",
    "test_fuzz",
    "test_hanging",
    "test_hard_requests",
    "test_life",
    "test_memorylimit",
    "test_native",
    "test_native_fuzz",
    "test_native_memory",
    "test_native_parsing",
    "test_patience",
    "test_rehearsal",
    "test_relay",
    "test_requests",
    "test_reset",
    "test_reset_breezy",
    "test_runtime_directory",
    "test_sandbox",
    "test_sandbox_life",
    "test_service",
    "test_socket",
    "test_socket_faults",
    "test_socket_walk",
    "test_spare_files",
    "test_spares",
    "test_spawning",
    "test_ssh_attacks",
    "test_ssh_connection",
    "test_ssh_fido",
    "test_ssh_flow",
    "test_ssh_load",
    "test_ssh_logins",
    "test_ssh_paramiko",
    "test_ssh_server",
    "test_ssh_stopping",
    "test_sshd",
    "test_starting",
    "test_stopping",
    "test_trouble",
    "test_user",
    "test_warm",
    "test_warm_loaders",
    "test_warm_walk",
    "test_who_asked",
    "test_worker_errors",
)

load_tests = loader_of(__name__, MODULES)
