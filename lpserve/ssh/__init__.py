# SPDX-License-Identifier: GPL-2.0-or-later

"""The SSH server: "brz lp-serve-ssh"."""
