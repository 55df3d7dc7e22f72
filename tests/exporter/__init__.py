# SPDX-License-Identifier: GPL-2.0-or-later

"""The exporter of metrics."""

from .. import loader_of

MODULES = (
    "test_asking",
    "test_collector",
    "test_processes",
    "test_web",
)

load_tests = loader_of(__name__, MODULES)
