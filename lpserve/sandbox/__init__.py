# SPDX-License-Identifier: GPL-2.0-or-later

"""What the kernel lets a process do that serves connections."""
