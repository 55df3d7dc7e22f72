# SPDX-License-Identifier: GPL-2.0-or-later

"""The client: has a worker for its standard input and output."""
