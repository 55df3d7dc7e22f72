# SPDX-License-Identifier: GPL-2.0-or-later

"""The inside of the plug-in; see HACKING for which module does what."""
