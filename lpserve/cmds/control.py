# SPDX-License-Identifier: GPL-2.0-or-later

"""``brz lp-serve-control``: asks the service for its status, to reload or to stop."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from breezy import errors as _mod_errors
from breezy.option import Option

from ..drained import message_fault, remove_drained, write_drained
from ..errors import os_fault
from ..location import directory_fault
from ..report import format_status
from ..settings import read_meeting_place, read_settings
from .base import ClientCommand, runtime_dir_option

#: Bytes of an answer that are waited for: a history may be long.
LONGEST_ANSWER = 1 << 30
#: Seconds between two looks with --watch.
RENEWED = 2.0
# Clears a terminal.
_CLEAR = "\033[H\033[2J"


class _Verb(NamedTuple):
    """What can follow a verb.

    :ivar words: how many words at least and at most.
    :ivar options: those that go with it.
    """

    words: tuple[int, int] = (0, 0)
    options: tuple[str, ...] = ()


_ANY = sys.maxsize
VERBS = {
    "hello": _Verb(),
    "status": _Verb(options=("json",)),
    "connections": _Verb(options=("json", "watch")),
    "history": _Verb((0, 1), ("json",)),
    "end": _Verb((1, 1), ("now",)),
    "streams": _Verb(options=("json", "drop")),
    "health": _Verb(),
    "reload": _Verb(),
    "reopen": _Verb(),
    "upgrade": _Verb(),
    "drain": _Verb((0, _ANY)),
    "resume": _Verb(),
    "shutdown": _Verb(options=("now",)),
    "access": _Verb((0, 2), ("check",)),
}


class cmd_lp_serve_control(ClientCommand):
    """Ask the fork service how it is, or to do something.

    VERB is one of:

    :hello: is it there?
    :status: what it has done and is doing; --json for programs.
    :connections: who is connected, from where, since when, and what is being
      done for them; --json for programs, --watch to look every 2 seconds.
    :history [N]: the last N connections that have ended (of lpserve.history);
      --json for programs.
    :end PID|USER: end the connection of a worker, or all of a user, after the
      request that is being served, or lpserve.hangup_timeout; --now: at once.
    :streams: the streams of revisions that are kept, those that are made now and
      those that wait for that; --json for programs. --drop: remove all that are
      kept.
    :health: does a worker answer a greeting within a second?
    :reload: read configuration, plug-ins and code afresh.
    :upgrade: have a new process serve, with the code that is installed now;
      running connections finish with the old one. reload does so by itself if
      the code of lpserve has changed.
    :reopen: open the log and the access log anew, after they were moved away.
    :drain [MESSAGE]: refuse new connections with MESSAGE, until resume; running
      ones finish. It lasts when the service is restarted, and while none runs.
    :resume: serve new connections again.
    :shutdown: stop, when running connections have finished; --now: at once.
    :access USER PATH: what may USER do with PATH below lpserve.directory, and
      which line of the access rules says so? With --check=FILE instead of USER
      and PATH, and without a service: can FILE be used as access rules?

    Exits with 69 if there is no service, and with 1 if it refuses. health exits
    with 1, and says why, if no worker answers; end does if there is no such
    connection, and --check if FILE cannot be used.
    """

    takes_args = ["verb", "word*"]
    takes_options = [
        runtime_dir_option,
        Option("json", help="Print the answer as JSON."),
        Option("check", type=str, argname="FILE", help="Check a file of rules."),
        Option("drop", help="Remove all kept streams."),
        Option("now", help="Do not let running connections finish."),
        Option("watch", help="Print the connections every 2 seconds, until ^C."),
    ]
    _see_also = ["lpserve", "lp-serve"]

    def perform(
        self,
        verb: str,
        word_list: list[str] | None = None,
        runtime_dir: str | None = None,
        **options: Any,
    ) -> int:
        words = word_list or []
        _check(verb, words, [name for name, given in options.items() if given])
        self._service = _Service(*read_meeting_place(runtime_dir))
        do = getattr(self, f"_do_{verb}", None)
        if do is not None:
            do(words, options)
        else:
            self._service.ask([verb, *words])
        return 0

    def _do_hello(self, words: list[str], options: dict[str, Any]) -> None:
        self.outf.write(" ".join(self._service.ask(["hello"])) + "\n")

    def _do_status(self, words: list[str], options: dict[str, Any]) -> None:
        [text] = self._service.ask(["status"])
        self.outf.write(text + "\n" if options.get("json") else format_status(text))

    def _do_connections(self, words: list[str], options: dict[str, Any]) -> None:
        from ..reportconnections import format_connections

        with contextlib.suppress(KeyboardInterrupt):
            while True:
                [text] = self._service.ask(["connections"])
                if options.get("json"):
                    text += "\n"
                else:
                    clear = _CLEAR if options.get("watch") else ""
                    text = clear + format_connections(text)
                self.outf.write(text)
                self.outf.flush()
                if not options.get("watch"):
                    return
                time.sleep(RENEWED)

    def _do_history(self, words: list[str], options: dict[str, Any]) -> None:
        from ..reportconnections import format_history

        [text] = self._service.ask(["history", *words])
        self.outf.write(text + "\n" if options.get("json") else format_history(text))

    def _do_end(self, words: list[str], options: dict[str, Any]) -> None:
        now = ["now"] if options.get("now") else []
        [count] = self._service.ask(["end", *words, *now])
        if count == "0":
            raise self._service.error(1, f"no connection of {words[0]}")
        self.outf.write(f"{count} connections are told to end\n")

    def _do_streams(self, words: list[str], options: dict[str, Any]) -> None:
        from ..reportconnections import format_bytes
        from ..reportstreams import format_streams

        if options.get("drop"):
            count, size = map(int, self._service.ask(["streams", "drop"], 150.0))
            what = f"{count} kept streams ({format_bytes(size)}) are removed"
            told = {"dropped": count, "bytes": size}
            text = json.dumps(told) if options.get("json") else what
            self.outf.write(f"{text}\n")
            return
        [text] = self._service.ask(["streams"])
        self.outf.write(text + "\n" if options.get("json") else format_streams(text))

    def _do_health(self, words: list[str], options: dict[str, Any]) -> None:
        from ..client.health import health_fault

        fault = health_fault(self._service.directory, self._service.user)
        if fault is not None:
            raise self._service.error(1, fault)
        self.outf.write("healthy\n")

    def _do_reload(self, words: list[str], options: dict[str, Any]) -> None:
        # It is answered when a new zygote is ready.
        self._service.ask(["reload"], 150.0)

    def _do_upgrade(self, words: list[str], options: dict[str, Any]) -> None:
        # It is answered when another process serves.
        [version] = self._service.ask(["upgrade"], 150.0)
        self.outf.write(f"upgraded to {version}\n")

    def _do_drain(self, words: list[str], options: dict[str, Any]) -> None:
        message = " ".join(words)
        if (fault := message_fault(message)) is not None:
            raise _mod_errors.CommandError(fault)
        self._service.ask_or_do(
            # With a blank before it, it is not taken for key=value.
            ["drain", *([f" {message}"] if message else [])],
            lambda directory: write_drained(directory, message),
        )

    def _do_resume(self, words: list[str], options: dict[str, Any]) -> None:
        self._service.ask_or_do(["resume"], remove_drained)

    def _do_shutdown(self, words: list[str], options: dict[str, Any]) -> None:
        self._service.ask(["shutdown", *(["now"] if options.get("now") else [])])

    def _do_access(self, words: list[str], options: dict[str, Any]) -> None:
        if options.get("check") is not None and not words:
            self._check_rules(os.path.abspath(options["check"]))
            return
        if options.get("check") is not None or len(words) != 2:
            raise _mod_errors.CommandError("access takes USER and PATH, or --check")
        level, where = self._service.ask(["access", *words])
        file, _, line = where.rpartition(":")
        if line == "0":
            where = f"no line of {file}"
        self.outf.write(f"{level} ({where})\n")

    def _check_rules(self, path: str) -> None:
        """Read access rules as a service does, and compare them with what is served."""
        from ..accessfile import AccessFile, find_pretences

        directory = read_settings().directory
        file = AccessFile(path, directory)
        file.look()
        if file.rules is None:
            raise self._service.error(1, file.fault)
        for line in find_pretences(file.rules, directory):
            sys.stderr.write(f"brz {self.name()}: warning: {line}\n")
        sections, groups = len(file.rules.sections), len(file.rules.groups)
        self.outf.write(f"{path}: {sections} sections, {groups} groups\n")


def _check(verb: str, words: list[str], options: list[str]) -> None:
    """CommandError for what no verb can be given."""
    if verb not in VERBS:
        raise _mod_errors.CommandError(
            f"unknown verb {shlex.quote(verb)}; expected one of {', '.join(VERBS)}"
        )
    least, most = VERBS[verb].words
    if not least <= len(words) <= most:
        wanted = f"{least} or more words" if most == _ANY else f"{most} words"
        raise _mod_errors.CommandError(
            f"{verb} takes {wanted if most else 'no words'}, not {len(words)}"
        )
    for option in options:
        if option not in VERBS[verb].options:
            those = [each for each, its in VERBS.items() if option in its.options]
            raise _mod_errors.CommandError(f"--{option} goes with {', '.join(those)}")


class _Service:
    """The service that is asked.

    :param directory: the runtime directory.
    :param timeout: seconds until it must have answered.
    :param user: whose service is trusted beside root's and our own; or None.
    """

    def __init__(self, directory: str, timeout: float, user: str | None):
        self.directory = directory
        self.user = user
        self._timeout = timeout

    def error(self, status: int, text: str) -> Exception:
        """What ends the command with *status* and *text*."""
        from ..client.conversation import ClientError

        return ClientError(status, text)

    def ask(self, words: list[str], timeout: float | None = None) -> list[str]:
        """The words of the answer, without the ``ok``."""
        from ..client import conversation
        from ..client.client import EX_UNAVAILABLE

        try:
            return self._ask(words, timeout)
        except conversation.NoService as error:
            raise self.error(EX_UNAVAILABLE, str(error)) from None

    def ask_or_do(self, words: list[str], do: Callable[[str], object]) -> None:
        """Ask; where there is no service do it in the runtime directory instead."""
        from ..client import conversation

        try:
            self._ask(words)
        except conversation.NoService as error:
            try:
                if directory_fault(self.directory) is not None:
                    raise self.error(69, str(error)) from None
                do(self.directory)
            except OSError as fault:
                raise self.error(69, f"{error}, and {os_fault(fault)}") from None

    def _ask(self, words: list[str], timeout: float | None = None) -> list[str]:
        from ..client import conversation
        from ..client.client import open_door

        def opened(where: str) -> conversation.Exchange:
            talk = open_door(where, service_user=self.user)
            talk.longest = LONGEST_ANSWER
            return talk

        answer = conversation.ask(
            self.directory,
            words,
            self._timeout if timeout is None else timeout,
            opened,
        )
        if answer[0] != "ok":
            raise self.error(1, f"{answer[1]}: {' '.join(answer[2:])}")
        return answer[1:]
