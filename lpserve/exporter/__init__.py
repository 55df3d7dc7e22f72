# SPDX-License-Identifier: GPL-2.0-or-later

"""The exporter of metrics for Prometheus: "brz lp-serve-exporter"."""
