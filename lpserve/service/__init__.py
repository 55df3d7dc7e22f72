# SPDX-License-Identifier: GPL-2.0-or-later

"""The service: takes requests and has children for them; `start` alone knows Breezy."""
