# SPDX-License-Identifier: GPL-2.0-or-later

"""Metrics of what the service answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.utils import floatToGoString

from ..channel import OUTCOMES
from ..wire import ERROR_CODES
from .asking import Found
from .families import Family, by_label, gauge, label_text, number, part

#: How connections end, the doors, and the processes, as the service names them.
RESULTS = ("ended", "gone", "failed", "evicted")
DOORS = ("fifo", "socket")
PROCESSES = ("service", "zygote", "workers")

#: Single numbers in the answer to "metrics": kind, name, help, where.
_NUMBERS: tuple[tuple[Family, str, str, str], ...] = (
    (
        GaugeMetricFamily,
        "lpserve_start_time_seconds",
        "When the service started, in seconds of Unix time.",
        "started",
    ),
    (
        GaugeMetricFamily,
        "lpserve_generation",
        "Number of the zygote that forks, from 1 at the start of the service.",
        "generation",
    ),
    (
        CounterMetricFamily,
        "lpserve_requests",
        "Requests that the service has understood, of all verbs.",
        "requests",
    ),
    (
        CounterMetricFamily,
        "lpserve_faults",
        "Bugs of the service: exceptions that nothing expected; see its log.",
        "faults",
    ),
    (CounterMetricFamily, "lpserve_forks", "Workers that were forked.", "forks"),
    (
        CounterMetricFamily,
        "lpserve_zygote_deaths",
        "Zygotes that ended while they were in use.",
        "zygote_deaths",
    ),
    (
        CounterMetricFamily,
        "lpserve_access_log_lost_lines",
        "Lines that could not be written to the access log.",
        "access_log_lost",
    ),
)

#: Numbers by a label: name, help, where, label, its values.
_COUNTS: tuple[tuple[str, str, str, str, Sequence[str]], ...] = (
    (
        "lpserve_refusals",
        "Requests that were refused, by the code of the error.",
        "refused",
        "code",
        ERROR_CODES,
    ),
    (
        "lpserve_reloads",
        "Reloads that were asked for.",
        "reloads",
        "result",
        ("done", "failed"),
    ),
    (
        "lpserve_warm_lookups",
        "Repositories that workers looked for in memory: found (hit), found out of "
        "date (stale), or not found (cold).",
        "warm",
        "result",
        OUTCOMES,
    ),
    (
        "lpserve_streams",
        "Streams of revisions that clients got: from those that are kept (kept), read "
        "along while another worker made it (followed), or made for them (made).",
        "streams",
        "how",
        ("kept", "followed", "made"),
    ),
    (
        "lpserve_stream_bytes",
        "Bytes of these streams, of those that were not made for the client.",
        "stream_bytes",
        "how",
        ("kept", "followed"),
    ),
)

_HISTOGRAMS = (
    (
        "lpserve_hand_over_seconds",
        "Seconds from the request for a connection until a worker has it.",
        "hand_over",
    ),
    (
        "lpserve_queue_wait_seconds",
        "Seconds that a connection waited for a place; nearly 0 if there was one.",
        "wait",
    ),
    (
        "lpserve_first_byte_seconds",
        "Seconds from the request for a connection to the first byte for the client.",
        "first_byte",
    ),
    (
        "lpserve_connection_duration_seconds",
        "Seconds from the request for a connection to its end.",
        "duration",
    ),
)


def of_service(found: Found) -> Iterator[Metric]:
    """The metrics of a service that has answered."""
    yield from _of_metrics(found.metrics)
    yield from _of_status(found.status)
    yield from _of_processes(found)


def _of_metrics(metrics: dict[str, Any]) -> Iterator[Metric]:
    for family, name, text, where in _NUMBERS:
        amount = number(metrics.get(where))
        if amount is not None:
            yield family(name, text, value=amount)
    for name, text, where, label, values in _COUNTS:
        if where in metrics:
            found = part(metrics, where)
            yield from by_label(
                CounterMetricFamily, name, text, label, found, values, 0
            )
    yield from _connections(metrics.get("connections"))
    for name, text, where in _HISTOGRAMS:
        yield from _histogram(name, text, part(part(metrics, "histograms"), where))
    found = part(metrics, "processes")
    for family, name, text, where in (
        (
            CounterMetricFamily,
            "lpserve_cpu_seconds",
            "CPU time of the processes that there are and, of workers, were.",
            "cpu",
        ),
        (
            GaugeMetricFamily,
            "lpserve_resident_memory_bytes",
            "Memory of service, zygote and workers with connections; what they share "
            "is counted for each of them.",
            "memory",
        ),
    ):
        numbers = {each: part(found, each).get(where) for each in PROCESSES}
        yield from by_label(family, name, text, "process", numbers, PROCESSES)


def _connections(found: Any) -> Iterator[Metric]:
    made = CounterMetricFamily(
        "lpserve_connections",
        "Connections that have ended: well (ended), because the client left (gone) "
        "or an administrator ended them (evicted), or otherwise (failed).",
        labels=["result", "door"],
    )
    for each in found if isinstance(found, list) else []:
        entry = each if isinstance(each, dict) else {}
        labels = entry.get("result"), entry.get("door")
        count = number(entry.get("count"))
        if labels[0] in RESULTS and labels[1] in DOORS and count is not None:
            made.add_metric([str(label) for label in labels], count)
    if made.samples:
        yield made


def _histogram(name: str, text: str, found: dict[str, Any]) -> Iterator[Metric]:
    try:
        buckets = [(_bound(bound), float(count)) for bound, count in found["buckets"]]
        buckets.append(("+Inf", float(found["count"])))
        total = float(found["sum"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return
    yield HistogramMetricFamily(name, text, buckets=buckets, sum_value=total)


def _bound(bound: float) -> str:
    text: str = floatToGoString(bound)  # type: ignore[no-untyped-call]
    return text


def _of_status(status: dict[str, Any]) -> Iterator[Metric]:
    yield InfoMetricFamily(
        "lpserve_build",
        "The versions of lpserve, and of Breezy in the zygote.",
        {
            "version": label_text(status.get("version")),
            "breezy_version": label_text(status.get("breezy") or ""),
        },
    )
    yield gauge(
        "lpserve_stopping",
        "Whether the service is stopping, and accepts no connections.",
        status.get("state") == "stopping",
    )
    workers = part(status, "workers")
    text = (
        "Workers that serve a connection (busy), wait for one (spare), or are being "
        "forked (starting)."
    )
    states = ("busy", "spare", "starting")
    yield from by_label(
        GaugeMetricFamily, "lpserve_workers", text, "state", workers, states
    )
    text = (
        "Connections that wait for a place (lpserve.max_workers), or that have one "
        "and wait for a worker."
    )
    waiting = {"place": workers.get("queued"), "worker": workers.get("waiting")}
    name = "lpserve_waiting_connections"
    yield from by_label(GaugeMetricFamily, name, text, "wants", waiting, tuple(waiting))
    yield from _of_streams(part(status, "streams"))
    warm, warnings = status.get("warm"), status.get("warnings")
    if isinstance(warm, list):
        warm = sum(isinstance(x, dict) and x.get("state") == "warm" for x in warm)
    for name, text, value in (
        (
            "lpserve_warm_repositories",
            "Repositories that are kept in memory.",
            warm,
        ),
        (
            "lpserve_warm_memory_bytes",
            "Memory that repositories take that are kept in it.",
            part(status, "warm_set").get("bytes"),
        ),
        (
            "lpserve_open_fds",
            "Descriptors that the service has open.",
            status.get("descriptors"),
        ),
        (
            "lpserve_warnings",
            "Warnings in the status: what an administrator should correct.",
            len(warnings) if isinstance(warnings, list) else None,
        ),
    ):
        amount = number(value)
        if amount is not None:
            yield gauge(name, text, amount)


def _of_streams(streams: dict[str, Any]) -> Iterator[Metric]:
    for name, text, where in (
        ("lpserve_kept_streams", "Streams that are kept.", "kept"),
        ("lpserve_kept_streams_bytes", "Disk that kept streams take.", "bytes"),
    ):
        if (amount := number(streams.get(where))) is not None:
            yield gauge(name, text, amount)
    text = (
        "Streams that are being made, or wait for that (lpserve.max_streams_at_once)."
    )
    states = ("making", "waiting")
    yield from by_label(
        GaugeMetricFamily, "lpserve_current_streams", text, "state", streams, states
    )


def _of_processes(found: Found) -> Iterator[Metric]:
    measured = found.measured
    if measured.max_descriptors is not None:
        text = "Descriptors that the service may have open."
        yield gauge("lpserve_max_fds", text, measured.max_descriptors)
    name = "lpserve_proportional_memory_bytes"
    text = "Memory of service, zygote and all workers; what they share is divided."
    pss = measured.pss
    yield from by_label(GaugeMetricFamily, name, text, "process", pss, PROCESSES)
