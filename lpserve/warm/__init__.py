# SPDX-License-Identifier: GPL-2.0-or-later

"""Repositories in memory: read by a loader, used by workers."""
