# SPDX-License-Identifier: GPL-2.0-or-later

"""What "lp-serve-setup" does: checks an installation, edits keys, writes files."""
