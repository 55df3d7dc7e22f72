# SPDX-License-Identifier: GPL-2.0-or-later

"""``brz lp-serve-client``: serves one connection by a worker of the service."""

from __future__ import annotations

import os
import sys

from breezy.option import Option

from .. import system
from ..location import runtime_directory
from ..program import brz_words
from ..settings import read_settings
from .base import ClientCommand, runtime_dir_option


class cmd_lp_serve_client(ClientCommand):
    """Ask the fork service for a worker for USER and relay stdin and stdout.

    This is what OpenSSH runs in place of the command that a client sends. The
    stand-alone program 'lp-serve-client USER' is the same, and starts much
    faster; a line of ~/.ssh/authorized_keys for it::

        command="lp-serve-client alice",restrict ssh-ed25519 AAAA... alice

    If no service is running, this starts one if lpserve.autostart is set, and
    otherwise serves the connection itself, as 'brz lp-serve --inet USER' does.

    :Exit values:
        That of the worker; 128+N if signal N ended the worker; 64 for wrong
        usage, or a command other than 'bzr serve --inet'; 69 if there is no
        service (and no fallback); 75 if it is busy or out of service; 77 if it
        denies the request.
    """

    takes_args = ["user"]
    takes_options = [
        runtime_dir_option,
        Option(
            "door",
            type=str,
            argname="fifo|socket",
            help="Ask there only; the default is the socket, else the FIFO.",
        ),
        Option("no-fallback", help="Fail instead of serving the connection here."),
    ]
    _see_also = ["lpserve", "lp-serve"]

    def perform(
        self,
        user: str,
        runtime_dir: str | None = None,
        door: str | None = None,
        no_fallback: bool = False,
    ) -> int:
        from ..client import client

        system.disable_debugger()
        client.check_door(door)
        settings = read_settings()
        status = client.serve(
            user,
            runtime_directory(runtime_dir, settings.runtime_dir),
            {
                "environment": settings.environment,
                "service_user": settings.service_user,
                "autostart": settings.autostart,
                "connect_timeout": settings.connect_timeout,
            },
            brz_words(),
            fallback=settings.fallback and not no_fallback,
            door=door,
        )
        sys.stderr.flush()
        os._exit(status)  # stdin and stdout belong to the worker now
