# SPDX-License-Identifier: GPL-2.0-or-later

"""Makes metrics of what was found out; doc/metrics.txt lists them.

The labels have a fixed set of values: none has users, repositories or addresses of
clients. What the service tells in another form, because it is older or newer, is left
out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from .asking import Found
from .families import gauge
from .ofservice import of_service
from .ofssh import of_ssh


class LpserveCollector(Collector):
    """Collects the metrics.

    :param find: finds out what they are made of.
    :param version: of the exporter.
    """

    def __init__(self, find: Callable[[], Found], version: str):
        self._find = find
        self._version = version

    def collect(self) -> Iterable[Metric]:
        """The metrics, as they are now."""
        found = self._find()
        yield gauge("lpserve_up", "Whether the service has answered.", not found.fault)
        yield InfoMetricFamily(
            "lpserve_exporter_build",
            "The version of the exporter.",
            {"version": self._version},
        )
        yield gauge(
            "lpserve_drained", "Whether the host is out of service.", found.drained
        )
        if not found.fault:
            yield from of_service(found)
        yield from of_ssh(found.ssh)


def make_page(
    find: Callable[[], Found], version: str
) -> Callable[[], tuple[bytes, str]]:
    """The function that makes the metrics; it returns the text and its media type.

    The metrics of the exporter itself, which most programs have, are in it.
    """
    registry = CollectorRegistry()
    registry.register(LpserveCollector(find, version))
    ProcessCollector(registry=registry)

    def page() -> tuple[bytes, str]:
        # The plain text: every version of Prometheus reads it.
        encode, kind = choose_encoder("")
        return encode(registry), kind

    return page
