# SPDX-License-Identifier: GPL-2.0-or-later

"""Workers of the fork service as processes of Twisted's reactor.

The interface for programs is `spawnProcess` and `ForkService`; see `transport`.
"""

from .transport import ForkService, WorkerTransport, spawnProcess

__all__ = ["ForkService", "WorkerTransport", "spawnProcess"]
