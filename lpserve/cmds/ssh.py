# SPDX-License-Identifier: GPL-2.0-or-later

"""``brz lp-serve-ssh``: runs the SSH server in front of the service."""

from __future__ import annotations

from breezy import errors as _mod_errors
from breezy.option import Option

from ... import __version__
from ..program import brz_words
from .base import LpserveCommand, runtime_dir_option


class cmd_lp_serve_ssh(LpserveCommand):
    """Be an SSH server in front of the fork service.

    It serves Bazaar and nothing else: no shell, no files, no forwarding. Users
    need no account on this system. A directory has a file of public keys for
    each user, in the format of sshd's authorized_keys and named like the user.
    It is read at every login. To log in as NAME@host, a user needs a key from
    the file NAME. Every user may also log in as bzr@host: the key then tells
    which user it is.

    Workers of the service ('brz lp-serve --fork-server') serve the connections.
    If the service is not running, it is started if lpserve.autostart is set;
    otherwise each connection gets a process of its own, unless
    lpserve.fallback is False.

    It runs in the foreground, and logs a line for every connection to standard
    error. SIGTERM and SIGINT let connections finish, and end them when sent
    again. SIGINT stays ignored if it was ignored at the start, as by "&" in a
    script. SIGHUP reads breezy.conf afresh. With lpserve.ssh_processes there
    are several processes; signals are for the first of them.

    SIGUSR2 upgrades: a new process, of the code that is installed now, accepts
    connections from then on, and the old one finishes what it has. So does
    SIGHUP if a file of the code has changed. If the new one does not come up,
    the old one goes on, and logs why.

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
        runtime_dir_option,
        Option("process", type=int, argname="FD", hidden=True, help="Internal."),
        Option("successor", type=int, argname="FD", hidden=True, help="Internal."),
    ]
    _see_also = ["lpserve", "lp-serve"]

    def perform(
        self,
        listen: str | None = None,
        host_key: str | None = None,
        authorized_keys: str | None = None,
        runtime_dir: str | None = None,
        process: int | None = None,
        successor: int | None = None,
    ) -> int:
        try:
            import twisted.conch  # noqa: F401
        except ImportError:
            raise _mod_errors.CommandError(
                "lp-serve-ssh needs Twisted; install it: pip install 'Twisted[conch]'"
            ) from None
        from ..ssh.start import run_process, run_server

        if process is not None:
            run_process(process)
            return 0
        chosen = {
            "listen": listen,
            "host_key": host_key,
            "authorized_keys": authorized_keys,
        }
        run_server(chosen, runtime_dir, brz_words(), __version__, successor)
        return 0
