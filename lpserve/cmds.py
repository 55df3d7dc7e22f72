# SPDX-License-Identifier: GPL-2.0-or-later

"""The commands: parse what was typed, call what does it, report."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from typing import Any

from breezy import errors as _mod_errors
from breezy.commands import Command
from breezy.option import Option, custom_help

from .. import __version__
from . import system
from .descriptors import open_standard_descriptors
from .errors import LpserveError
from .location import LPSERVE_USER, runtime_directory
from .options import seconds
from .program import brz_words
from .settings import Settings, read_meeting_place, read_settings

_runtime_dir = Option(
    "runtime-dir",
    type=str,
    argname="DIR",
    help="The directory in which service and clients meet.",
)
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


class _LpserveCommand(Command):
    """Turns the plug-in's errors into Breezy's."""

    def run(self, *args: Any, **kwargs: Any) -> int | None:
        open_standard_descriptors()
        try:
            return self.perform(*args, **kwargs)
        except LpserveError as error:
            raise _mod_errors.CommandError(str(error)) from None

    def perform(self, *args: Any, **kwargs: Any) -> int | None:
        raise NotImplementedError(self.perform)


class _ClientCommand(_LpserveCommand):
    """A client of the service; what it needs is not there on every system."""

    def run(self, *args: Any, **kwargs: Any) -> int | None:
        from .client import conversation

        try:
            return super().run(*args, **kwargs)
        except conversation.ClientError as error:
            sys.stderr.write(f"brz {self.name()}: {error.shown}\n")
            return error.status


class cmd_lp_serve(_LpserveCommand):
    """Serve bzr+ssh connections: one of them, or all by a fork service.

    With --inet this process serves one connection for USER on its standard
    input and output, as 'brz serve --inet' does.

    With --fork-server it becomes the fork service: a process that has Breezy
    loaded and gives every connection a forked worker, at once. It listens at
    the named pipe RUNTIME_DIR/control; clients are 'lp-serve-client', which
    sshd runs, and 'brz lp-serve-control'. It runs in the foreground, and logs
    to standard error, until it is told to stop:

    * SIGTERM, SIGINT, 'brz lp-serve-control shutdown': running connections
      finish; told again, or with --now, it ends them. SIGINT stays ignored
      where it was, as by "&" in a script.
    * SIGHUP, 'brz lp-serve-control reload': reads configuration, plug-ins and
      code afresh for the connections to come.

    What is served is read-only without --allow-writes. All options can be set
    in breezy.conf: see 'brz help lpserve'.

    :Examples:
        Serve /srv/bzr to those who may log in as this user::

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
        _runtime_dir,
        *_serving,
        Option("zygote", type=int, argname="FD", hidden=True, help="Internal."),
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
    ) -> int | None:
        if zygote is not None:
            from .zygote.zygote import main

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
        from .service.start import run_service

        run_service(runtime_dir, chosen, brz_words(), __version__, daemon, pid_file)
        return 0

    def _serve_one(self, user: str | None, settings: Settings) -> int:
        from . import wire
        from .sandbox import confine
        from .serving import memorylimit, smartserver

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
        )


class cmd_lp_serve_client(_ClientCommand):
    """Ask the fork service for a worker for USER and relay stdin and stdout.

    This is what OpenSSH runs in place of the command that a client sends. The
    stand-alone program 'lp-serve-client USER' is the same, and starts much
    faster; a line of ~/.ssh/authorized_keys for it::

        command="lp-serve-client alice",restrict ssh-ed25519 AAAA... alice

    Where there is no service it starts one if lpserve.autostart is set, and
    otherwise serves the connection itself, as 'brz lp-serve --inet USER'.

    :Exit values:
        That of the worker; 128+N if signal N ended it; 64 for a command that is
        not 'bzr serve --inet' or another wrong use, 69 if there is no service
        (and no fallback), 75 if it is busy, 77 if the request was denied.
    """

    takes_args = ["user"]
    takes_options = [
        _runtime_dir,
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
        from .client import client

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
            fallback=not no_fallback,
            door=door,
        )
        sys.stderr.flush()
        os._exit(status)  # stdin and stdout are not ours any more


class cmd_lp_serve_control(_ClientCommand):
    """Ask the fork service how it is, or to stop, or to reload.

    VERB is one of:

    :hello: is it there?
    :status: what it has done and is doing; --json for programs.
    :reload: read configuration, plug-ins and code afresh.
    :shutdown: stop, when running connections have finished; --now: at once.

    Exits with 69 if there is no service, and with 1 if it refuses.
    """

    takes_args = ["verb"]
    takes_options = [
        _runtime_dir,
        Option("json", help="Print the status as JSON."),
        Option("now", help="Do not let running connections finish."),
    ]
    _see_also = ["lpserve", "lp-serve"]

    def perform(
        self,
        verb: str,
        runtime_dir: str | None = None,
        json: bool = False,
        now: bool = False,
    ) -> int:
        from .client import conversation
        from .client.client import EX_UNAVAILABLE, open_door

        if verb not in ("hello", "status", "reload", "shutdown"):
            raise _mod_errors.CommandError(
                f"unknown verb {shlex.quote(verb)}; expected hello, status, reload "
                "or shutdown"
            )
        if (now and verb != "shutdown") or (json and verb != "status"):
            raise _mod_errors.CommandError(
                "--now goes with shutdown, and --json with status"
            )
        directory, timeout, service_user = read_meeting_place(runtime_dir)
        words = [verb, "now"] if now else [verb]
        if verb == "reload":
            timeout = 150.0  # it is answered when a new zygote is ready
        try:
            answer = conversation.ask(
                directory,
                words,
                timeout,
                lambda where: open_door(where, service_user=service_user),
            )
        except conversation.NoService as error:
            raise conversation.ClientError(EX_UNAVAILABLE, str(error)) from None
        if answer[0] != "ok":
            raise conversation.ClientError(1, f"{answer[1]}: {' '.join(answer[2:])}")
        if verb == "hello":
            self.outf.write(" ".join(answer[1:]) + "\n")
        elif verb == "status":
            from .report import format_status

            self.outf.write(answer[1] + "\n" if json else format_status(answer[1]))
        return 0


class cmd_lp_serve_ssh(_LpserveCommand):
    """Be an SSH server in front of the fork service.

    It serves Bazaar and nothing else: no shell, no files, no forwarding. Users
    need no account on this system. Who may log in is in a directory with a file
    of public keys, as authorized_keys of sshd, for each user, whose name is that
    of the file. It is read at every login. Who logs in under a name needs a key
    that is in the file of that name; as 'bzr@host' everybody may log in, and is
    known by the key.

    Connections are served by workers of the service that 'brz lp-serve
    --fork-server' is; where it is not running, it is started if
    lpserve.autostart is set, or each connection gets a process of its own.

    It runs in the foreground, and logs a line for every connection to standard
    error. SIGTERM and SIGINT let connections finish, and end them when sent
    again (SIGINT not where it was ignored, as by "&" in a script); SIGHUP reads
    breezy.conf afresh.

    It needs Twisted: pip install 'brz-lpserve[ssh]'.

    :Examples:
        Let alice, with her key, use what the service serves::

            mkdir -m 755 keys
            cp id_ed25519.pub keys/alice
            brz lp-serve-ssh --authorized-keys=keys
            brz branch bzr+ssh://bzr@localhost:5022/project
    """

    takes_options = [
        Option(
            "listen",
            type=str,
            argname="HOST:PORT",
            help="Where to listen; 127.0.0.1:5022 unless configured.",
        ),
        Option(
            "host-key",
            type=str,
            argname="FILE",
            help="The private key of the server; made if it is not there.",
        ),
        Option(
            "authorized-keys",
            type=str,
            argname="DIR",
            help="The directory with a file of public keys for each user.",
        ),
        _runtime_dir,
    ]
    _see_also = ["lpserve", "lp-serve"]

    def perform(
        self,
        listen: str | None = None,
        host_key: str | None = None,
        authorized_keys: str | None = None,
        runtime_dir: str | None = None,
    ) -> int:
        try:
            import twisted.conch  # noqa: F401
        except ImportError:
            raise _mod_errors.CommandError(
                "lp-serve-ssh needs Twisted; install it: pip install 'Twisted[conch]'"
            ) from None
        from .ssh.start import run_server

        chosen = {
            "listen": listen,
            "host_key": host_key,
            "authorized_keys": authorized_keys,
        }
        run_server(chosen, runtime_dir, brz_words())
        return 0
