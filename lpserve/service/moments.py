# SPDX-License-Identifier: GPL-2.0-or-later

"""When something was, for a person to read."""

from __future__ import annotations

import time
from datetime import datetime, timezone


def moment(monotonic: float) -> str:
    """The time of day of a moment of the monotonic clock; see `time_of_day`."""
    return time_of_day(time.time() - time.monotonic() + monotonic)


def time_of_day(seconds: float) -> str:
    """The time of day in UTC (RFC 3339), *seconds* after the epoch."""
    found = datetime.fromtimestamp(seconds, timezone.utc)
    return found.isoformat(timespec="milliseconds").replace("+00:00", "Z")
