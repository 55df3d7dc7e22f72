# SPDX-License-Identifier: GPL-2.0-or-later

"""The exporter of metrics, as Prometheus and load balancers ask it."""

from ... import loader_of

MODULES = (
    "test_exporter",
    "test_prometheus",
)

load_tests = loader_of(__name__, MODULES)
