# SPDX-License-Identifier: GPL-2.0-or-later

"""Parses the values of options; ValueError means that a text is none."""

from __future__ import annotations

import os

from .streamdirectory import OFF

SANDBOX_MODES = ("auto", "writes", "strict", "off")
STREAM_ORDERS = ("blocks", "breezy")
#: The largest count: what it is given to may have less room than Python's integers.
_LARGEST = 10**9
#: The most processes of lp-serve-ssh: a slip of the finger must not start thousands.
_MOST_PROCESSES = 256


def count(text: str) -> int:
    """A count: 0 or more."""
    number = int(text)
    if not 0 <= number <= _LARGEST:
        raise ValueError(text)
    return number


def positive(text: str) -> int:
    """A count: 1 or more."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def seconds(text: str) -> float:
    """A number of seconds: 0 or more."""
    number = float(text)
    if not 0 <= number < float("inf"):
        raise ValueError(text)
    return number


def processes(text: str) -> int:
    """A number of processes, or "auto"."""
    if text.strip() == "auto":
        return min(len(os.sched_getaffinity(0)), _MOST_PROCESSES)
    number = positive(text)
    if number > _MOST_PROCESSES:
        raise ValueError(text)
    return number


def sandbox_mode(text: str) -> str:
    """One of `SANDBOX_MODES`."""
    if text not in SANDBOX_MODES:
        raise ValueError(text)
    return text


def stream_order_name(text: str) -> str:
    """One of `STREAM_ORDERS`."""
    if text not in STREAM_ORDERS:
        raise ValueError(text)
    return text


def stream_cache_place(text: str) -> str:
    """A path as `absolute`, or "off"."""
    return text if text == OFF else absolute(text)


def absolute(text: str) -> str:
    """An absolute path; ``~`` is expanded."""
    path = os.path.expanduser(text)
    if not os.path.isabs(path):
        raise ValueError(text)
    return path
