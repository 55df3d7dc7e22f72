# SPDX-License-Identifier: GPL-2.0-or-later

"""The sandbox of the processes that open repositories."""
