# SPDX-License-Identifier: GPL-2.0-or-later

"""Runs the exporter until a signal ends it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal

from .. import system
from ..errors import ConfigurationError
from ..logs import log_to_stderr
from ..systemd import Notifier
from .asking import Asking
from .collector import make_page
from .web import Computed, Page, Response, Web

log = logging.getLogger("lpserve")

#: Seconds that an answer to /healthz is good for.
_HEALTH_KEPT = 1.0

_INDEX = b"""\
/metrics    metrics of lpserve, for Prometheus
/healthz    200 if a worker serves connections now, else 503
"""


def run_exporter(
    address: tuple[str, int], directory: str, service_user: str | None, version: str
) -> None:
    """Serve metrics until SIGTERM or SIGINT.

    :param address: where to listen.
    :param directory: the runtime directory.
    :param service_user: whose service is trusted beside our own and root's.
    :param version: of the exporter.
    :raises ConfigurationError: if it cannot listen.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    log_to_stderr()
    system.disable_debugger()
    system.set_title("lp-serve-export")
    pages = make_pages(Asking(directory, service_user), version)
    asyncio.run(_serve(address, Web(pages)))


def make_pages(asking: Asking, version: str) -> dict[str, Page]:
    """What answers each path."""
    made = Computed(make_page(asking.find, version))
    health = Computed(asking.health, _HEALTH_KEPT)

    async def metrics() -> Response:
        body, kind = await made.get()
        return Response("200 OK", body, kind)

    async def healthz() -> Response:
        fault = await health.get()
        if fault:
            return Response("503 Service Unavailable", f"{fault}\n".encode())
        return Response("200 OK", b"healthy\n")

    async def index() -> Response:
        return Response("200 OK", _INDEX)

    return {"/": index, "/metrics": metrics, "/healthz": healthz}


async def _serve(address: tuple[str, int], web: Web) -> None:
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for number in system.stopping_signals():
        loop.add_signal_handler(number, told.set)
    host, port = address
    try:
        server = await web.listen(host, port)
    except OSError as error:
        # asyncio has its own text.
        why = os.strerror(error.errno) if error.errno else str(error)
        raise ConfigurationError(f"cannot listen on {host}:{port}: {why}") from None
    host, port = server.sockets[0].getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    log.info("Listening on %s:%d", shown, port)
    systemd = Notifier(loop.call_later)
    systemd.ready(f"Listening on {shown}:{port}")
    systemd.watch_us()
    await told.wait()
    systemd.stopping("")
    server.close()
