# SPDX-License-Identifier: GPL-2.0-or-later

"""The commands: parse what was typed, call what does it, report."""
