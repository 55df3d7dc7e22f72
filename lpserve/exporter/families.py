# SPDX-License-Identifier: GPL-2.0-or-later

"""Makes families of metrics of what may be there or not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
)

Family = type[CounterMetricFamily] | type[GaugeMetricFamily]


def gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    """A gauge without labels."""
    return GaugeMetricFamily(name, text, value=float(value))


def number(value: Any) -> float | None:
    """*value* if it is a number, else None."""
    try:
        known = isinstance(value, (int, float)) and math.isfinite(value)
        return float(value) if known else None
    except OverflowError:
        return None


def label_text(value: Any) -> str:
    """*value* as the value of a label: text that can be encoded."""
    return str(value).encode("utf-8", "replace").decode()


def part(whole: dict[str, Any], name: str) -> dict[str, Any]:
    """The object *name* in *whole*; an empty one if it is not there."""
    found = whole.get(name)
    return found if isinstance(found, dict) else {}


def by_label(
    family: Family,
    name: str,
    text: str,
    label: str,
    found: dict[str, Any],
    values: Sequence[str],
    absent: float | None = None,
) -> Iterator[Metric]:
    """A family with a number of *found* for each of *values*, if there is one.

    :param absent: the number of those that are not there.
    """
    made = family(name, text, labels=[label])
    for value in values:
        amount = number(found.get(value, absent))
        if amount is not None:
            made.add_metric([value], amount)
    if made.samples:
        yield made
