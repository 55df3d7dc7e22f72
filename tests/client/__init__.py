# SPDX-License-Identifier: GPL-2.0-or-later

"""The client, and the one in C."""

from .. import loader_of

MODULES = (
    "test_conversation",
    "test_directsession",
    "test_health",
    "test_socketconversation",
    "test_sshcommand",
)

load_tests = loader_of(__name__, MODULES)
