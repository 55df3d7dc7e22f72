# SPDX-License-Identifier: GPL-2.0-or-later

"""One connection of the Bazaar smart protocol, on two descriptors."""
