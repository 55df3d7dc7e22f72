# SPDX-License-Identifier: GPL-2.0-or-later

"""``brz lp-serve``: serves one connection, or runs the service."""

from __future__ import annotations

import logging
import os
import sys

from breezy import errors as _mod_errors
from breezy.option import Option, custom_help

from ... import __version__
from .. import system
from ..errors import LpserveError
from ..location import LPSERVE_USER
from ..optionvalues import seconds
from ..program import brz_words
from ..settings import Settings, read_settings
from .base import LpserveCommand, runtime_dir_option

_serving = [
    custom_help("directory", help="Serve what is in this directory; %u is the user."),
    Option("allow-writes", help="Let clients change what is served."),
    Option(
        "client-timeout",
        type=seconds,
        argname="SECONDS",
        help="Give a client up after this long without a request.",
    ),
]


class cmd_lp_serve(LpserveCommand):
    """Serve bzr+ssh connections: one of them, or all by a fork service.

    With --inet this process serves one connection for USER on its standard
    input and output, as 'brz serve --inet' does.

    With --fork-server it becomes the fork service: a process that has Breezy
    loaded and gives every connection a forked worker, at once. It listens at
    the named pipe RUNTIME_DIR/control; clients are 'lp-serve-client', which
    sshd runs, and 'brz lp-serve-control'. It runs in the foreground, and logs
    to standard error, until it is stopped:

    * SIGTERM, SIGINT, 'brz lp-serve-control shutdown': running connections
      finish; the second time, or with --now, it ends them. SIGINT stays
      ignored if it was ignored at the start, as by "&" in a script.
    * SIGHUP, 'brz lp-serve-control reload': reads configuration, plug-ins and
      code afresh, for new connections.

    What is served is read-only without --allow-writes. All options can be set
    in breezy.conf: see 'brz help lpserve'.

    :Examples:
        Serve /srv/bzr to everyone who may log in as this user::

            brz lp-serve --fork-server --directory=/srv/bzr --allow-writes
    """

    takes_args = ["user?"]
    takes_options = [
        Option("inet", help="Serve one connection on stdin and stdout."),
        Option("fork-server", help="Be the fork service."),
        Option("daemon", help="Go to the background when the service is ready."),
        Option(
            "pid-file",
            type=str,
            argname="FILE",
            help="Write the pid of the service to FILE while it runs.",
        ),
        runtime_dir_option,
        *_serving,
        Option("zygote", type=int, argname="FD", hidden=True, help="Internal."),
        Option("successor", type=int, argname="FD", hidden=True, help="Internal."),
    ]
    _see_also = [
        "lpserve",
        "lp-serve-client",
        "lp-serve-control",
        "lp-serve-ssh",
        "serve",
    ]

    def perform(
        self,
        user: str | None = None,
        inet: bool = False,
        fork_server: bool = False,
        daemon: bool = False,
        pid_file: str | None = None,
        runtime_dir: str | None = None,
        directory: str | None = None,
        allow_writes: bool = False,
        client_timeout: float | None = None,
        zygote: int | None = None,
        successor: int | None = None,
    ) -> int | None:
        if zygote is not None:
            from ..zygote.zygote import main

            main(zygote)
        if inet == fork_server:
            raise _mod_errors.CommandError("give one of --inet and --fork-server")
        chosen = {
            "directory": os.path.abspath(directory) if directory else None,
            "allow_writes": allow_writes or None,
            "client_timeout": client_timeout,
        }
        if inet:
            return self._serve_one(user, read_settings(**chosen))
        if user is not None:
            raise _mod_errors.CommandError("--fork-server serves every user, not one")
        system.check_platform()
        from ..codestamp import code_stamp

        code = code_stamp()  # first: what is read after it may be newer, but not older
        from ..service.start import run_service

        brz, about = brz_words(), (__version__, code)
        run_service(runtime_dir, chosen, brz, about, daemon, pid_file, successor)
        return 0

    def _serve_one(self, user: str | None, settings: Settings) -> int:
        from .. import wire
        from ..accessfile import open_access_file
        from ..sandbox import confine
        from ..serving import memorylimit, smartserver

        if user is None or not wire.is_user(user):
            raise _mod_errors.CommandError(
                f"--inet needs a USER that matches {wire.USER_PATTERN}"
            )
        os.environ.setdefault("BRZ_EMAIL", user)
        os.environ[LPSERVE_USER] = user
        smartserver.redirect_output()
        system.disable_debugger()
        memorylimit.limit_connection(settings.worker_memory)
        logging.getLogger("brz").handlers[1:] = [logging.StreamHandler(sys.stderr)]
        try:
            confine.confine(settings.for_worker(), user)
        except LpserveError as error:
            return smartserver.report_error(error)
        return smartserver.serve_and_report(
            user,
            0,
            1,
            directory=settings.directory,
            allow_writes=settings.allow_writes,
            client_timeout=settings.client_timeout,
            request_timeout=settings.request_timeout,
            access=open_access_file(settings.for_worker()),
        )
