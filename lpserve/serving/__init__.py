# SPDX-License-Identifier: GPL-2.0-or-later

"""Serves one connection of the Bazaar smart protocol on two descriptors."""
