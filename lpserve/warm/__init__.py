# SPDX-License-Identifier: GPL-2.0-or-later

"""Keeps repositories in memory: a loader reads them, workers use them."""
