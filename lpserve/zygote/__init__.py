# SPDX-License-Identifier: GPL-2.0-or-later

"""The zygote, which has Breezy loaded and forks workers; and the worker."""
