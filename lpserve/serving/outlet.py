# SPDX-License-Identifier: GPL-2.0-or-later

"""Where the answer to the request that is being served goes."""

from __future__ import annotations

from .patience import Output


class _Outlet:
    """:ivar output: the client, if it speaks the third version of the protocol."""

    output: Output | None = None


current = _Outlet()
