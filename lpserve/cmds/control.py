# SPDX-License-Identifier: GPL-2.0-or-later

"""``brz lp-serve-control``: what administrators ask of the service."""

from __future__ import annotations

import shlex

from breezy import errors as _mod_errors
from breezy.option import Option

from ..settings import read_meeting_place
from .base import ClientCommand, runtime_dir_option

#: What can be asked for.
VERBS = ("hello", "status", "reload", "reopen", "shutdown")


class cmd_lp_serve_control(ClientCommand):
    """Ask the fork service how it is, or to do something.

    VERB is one of:

    :hello: is it there?
    :status: what it has done and is doing; --json for programs.
    :reload: read configuration, plug-ins and code afresh.
    :reopen: open the log anew, after it was moved away.
    :shutdown: stop, when running connections have finished; --now: at once.

    Exits with 69 if there is no service, and with 1 if it refuses.
    """

    takes_args = ["verb"]
    takes_options = [
        runtime_dir_option,
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
        from ..client import conversation
        from ..client.client import EX_UNAVAILABLE, open_door

        if verb not in VERBS:
            raise _mod_errors.CommandError(
                f"unknown verb {shlex.quote(verb)}; expected one of {', '.join(VERBS)}"
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
            from ..report import format_status

            self.outf.write(answer[1] + "\n" if json else format_status(answer[1]))
        return 0
