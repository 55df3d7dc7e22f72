# SPDX-License-Identifier: GPL-2.0-or-later

"""Metrics of what each lp-serve-ssh tells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
)

from ..loginrules import REASONS
from ..sshstate import DROPS, LOGINS, STATES, SshState

_SSH_COUNTS: tuple[tuple[str, str, str, Sequence[str]], ...] = (
    (
        "logins",
        "Connections that have logged in (accepted), or ended without, by the reason.",
        "result",
        LOGINS,
    ),
    (
        "drops",
        "Connections that were not accepted, by the limit that they were above.",
        "reason",
        DROPS,
    ),
    (
        "penalties",
        "Sources that are refused for a time from then on, by the reason.",
        "reason",
        tuple(REASONS),
    ),
)


def of_ssh(states: list[SshState]) -> Iterator[Metric]:
    """Of each lp-serve-ssh that listens, by its address."""
    # One that is stopping may have a successor at its address.
    listening = {each.listen: each for each in states if not each.stopping}.values()
    up = GaugeMetricFamily(
        "lpserve_ssh_up",
        "Whether lp-serve-ssh has said within 20 seconds how it is.",
        labels=["listen"],
    )
    started = GaugeMetricFamily(
        "lpserve_ssh_start_time_seconds",
        "When lp-serve-ssh started, in seconds of Unix time.",
        labels=["listen"],
    )
    for each in listening:
        up.add_metric([each.listen], float(each.up))
        started.add_metric([each.listen], each.started)
    yield up
    yield started
    for name, text, label, values in _SSH_COUNTS:
        counter = CounterMetricFamily(
            f"lpserve_ssh_{name}", text, labels=["listen", label]
        )
        for each in listening:
            for value in values:
                number = getattr(each, name).get(value, 0)
                counter.add_metric([each.listen, value], number)
        yield counter
    now = GaugeMetricFamily(
        "lpserve_ssh_connections",
        "Open connections of all lp-serve-ssh, stopping ones included.",
        labels=["state"],
    )
    for state in STATES if states else ():
        total = sum(each.connections.get(state, 0) for each in states)
        now.add_metric([state], total)
    yield now
    sessions = GaugeMetricFamily(
        "lpserve_ssh_sessions",
        "Sessions of all lp-serve-ssh: connections of the Bazaar protocol.",
    )
    if states:
        sessions.add_metric([], sum(each.sessions for each in states))
    yield sessions
