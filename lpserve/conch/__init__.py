# SPDX-License-Identifier: GPL-2.0-or-later

"""Workers of the fork service as processes of Twisted's reactor.

`spawnProcess` and `ForkService` are for programs; `transport` says how they are used.
"""

from .transport import ForkService, WorkerTransport, spawnProcess

__all__ = ["ForkService", "WorkerTransport", "spawnProcess"]
