# SPDX-License-Identifier: GPL-2.0-or-later

"""The manual: its commands work, and it explains all messages."""

from .. import loader_of

MODULES = ("test_commands", "test_messages", "test_pages")

load_tests = loader_of(__name__, MODULES)
