# SPDX-License-Identifier: GPL-2.0-or-later

"""``brz lp-serve-exporter``: tells Prometheus how the service is."""

from __future__ import annotations

from breezy import errors as _mod_errors
from breezy.option import Option

from ... import __version__
from ..addresses import parse_address
from ..settings import read_exporter_listen, read_meeting_place
from .base import LpserveCommand, runtime_dir_option


class cmd_lp_serve_exporter(LpserveCommand):
    """Give Prometheus the metrics of the fork service.

    It is an HTTP server. At /metrics it has metrics of the service ('brz lp-serve
    --fork-server') and of the SSH servers ('brz lp-serve-ssh') that use the same
    runtime directory, also while the service is not running: then lpserve_up is
    0. At /healthz, for load balancers, it answers 200 if a worker answers a
    greeting within a second, and otherwise 503 with the reason, as while the host
    is drained. The answer may be a second old.

    It has to run as the user of the service, or as root. Whoever can connect to
    it can read the metrics, which have no names of users or repositories.

    It runs in the foreground, until SIGTERM or SIGINT.

    It needs prometheus_client: pip install 'brz-lpserve[metrics]'.

    :Examples:
        Serve metrics to this host, and read them::

            brz lp-serve-exporter
            curl http://127.0.0.1:9852/metrics
    """

    takes_options = [
        Option(
            "listen",
            type=str,
            argname="HOST:PORT",
            help="Where to listen; 127.0.0.1:9852 unless configured.",
        ),
        runtime_dir_option,
    ]
    _see_also = ["lpserve", "lp-serve", "lp-serve-control"]

    def perform(self, listen: str | None = None, runtime_dir: str | None = None) -> int:
        try:
            import prometheus_client  # noqa: F401
        except ImportError:
            raise _mod_errors.CommandError(
                "lp-serve-exporter needs prometheus_client; install it: "
                "pip install prometheus_client"
            ) from None
        from ..exporter.start import run_exporter

        directory, _, service_user = read_meeting_place(runtime_dir)
        text = listen or read_exporter_listen()
        address = parse_address(text, "exporter_listen", 9852)
        run_exporter(address, directory, service_user, __version__)
        return 0
