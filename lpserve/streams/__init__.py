# SPDX-License-Identifier: GPL-2.0-or-later

"""What a client fetches: each block of a repository once."""
