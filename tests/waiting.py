# SPDX-License-Identifier: GPL-2.0-or-later

"""Waiting for events, with a deadline."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from typing import Any

#: Seconds after which an event counts as missing. Nothing takes nearly as long, even
#: where several other programs share each processor.
DEADLINE = 120.0


def wait_until(ready: Callable[[], Any], what: str, deadline: float = DEADLINE) -> Any:
    """Wait for an event that nothing announces; what *ready* then returns."""
    end = time.monotonic() + deadline
    while not (result := ready()):
        if time.monotonic() > end:
            raise AssertionError(f"did not happen within {deadline} s: {what}")
        time.sleep(0.005)
    return result


def read_line(descriptor: int, deadline: float = DEADLINE) -> bytes:
    """Read up to a newline or the end of file, a byte at a time."""
    end = time.monotonic() + deadline
    line = b""
    while not line.endswith(b"\n"):
        if not select.select([descriptor], [], [], max(0, end - time.monotonic()))[0]:
            raise AssertionError(f"no line within {deadline} s, only {line!r}")
        byte = os.read(descriptor, 1)
        if not byte:
            break
        line += byte
    return line
