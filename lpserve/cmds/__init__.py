# SPDX-License-Identifier: GPL-2.0-or-later

"""Defines the commands: parses their options, runs them and reports errors."""
