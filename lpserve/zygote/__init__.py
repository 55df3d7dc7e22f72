# SPDX-License-Identifier: GPL-2.0-or-later

"""The zygote: a process that has Breezy loaded and forks workers; and a worker."""
