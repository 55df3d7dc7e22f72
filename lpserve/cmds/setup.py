# SPDX-License-Identifier: GPL-2.0-or-later

"""``brz lp-serve-setup``: checks an installation, edits keys, writes files."""

from __future__ import annotations

import os
import sys
from typing import Any

from breezy import errors as _mod_errors
from breezy.option import Option

from ... import __version__
from ..program import brz_words
from .base import LpserveCommand

#: How many words follow each verb, and which options go with it.
_VERBS: dict[tuple[str, ...], tuple[int, tuple[str, ...]]] = {
    ("check",): (0, ("json", "sshd_config", "units", "sshd_said")),
    ("user", "add"): (2, ("server", "sshd_config", "units")),
    ("user", "list"): (0, ("server", "sshd_config", "units")),
    ("user", "remove"): (1, ("server", "sshd_config", "units")),
    ("files",): (1, ("force", "units")),
}


class cmd_lp_serve_setup(LpserveCommand):
    """Check an installation of lpserve, let users in, and write its files.

    'check' looks at all that belongs to the installation of an account, and
    changes nothing: breezy.conf and its options; each brz that is run, and
    whether it has this plug-in; the client; the sandbox; the runtime directory
    and what is served; owners and modes; the access rules; units of systemd;
    what sshd does with a login, and each line of authorized_keys; the keys of
    lp-serve-ssh. If a service runs, a worker is greeted through each of its
    doors, and through the first command of authorized_keys, as sshd would run
    it. sshd and lp-serve-ssh are greeted if they run. Each finding is a line
    that says what is wrong, and one that says what to do.

    'user add NAME KEYFILE' lets the owner of a public key in as NAME. KEYFILE
    may have several keys; "-" is standard input. 'user list' shows who is let
    in, and 'user remove NAME' takes all keys of NAME out; connections that are
    open go on. For sshd that is a line of authorized_keys of the account, and
    for lp-serve-ssh a file in lpserve.authorized_keys. A new key goes to
    lp-serve-ssh if it has such a directory, unless --for=sshd says otherwise;
    'user remove' looks at both.

    'files DIR' writes systemd's units, the sshd_config of the account, and a
    breezy.conf, with the paths of this installation, to look at and to copy.

    Root names the account whose installation it is, unless a unit does.

    :Exit values:
        Of check: 0 if there is no problem (a note is none), 1 if there is. Else
        3 if something is refused; then nothing has changed.

    :Examples:
        What is wrong with the installation of the account bzr, as root::

            brz lp-serve-setup check --account=bzr

        Let alice in, and show who is let in, as that account::

            brz lp-serve-setup user add alice alice.pub
            brz lp-serve-setup user list

        Units for this host::

            brz lp-serve-setup files lpserve-files
    """

    takes_args = ["verb", "word*"]
    takes_options = [
        Option(
            "account",
            type=str,
            argname="NAME",
            help="The account that runs the service; our own unless given.",
        ),
        Option(
            "for",
            type=str,
            param_name="server",
            argname="SERVER",
            help="Which server lets the user in: sshd or lp-serve-ssh.",
        ),
        Option("force", help="Replace files that are there."),
        Option("json", help="Print the findings as JSON."),
        Option(
            "sshd-config",
            type=str,
            argname="FILE",
            help="sshd's configuration; /etc/ssh/sshd_config unless given.",
        ),
        Option(
            "units",
            type=str,
            argname="DIR",
            help="The directory of systemd's units; the usual ones unless given.",
        ),
        Option("sshd-said", hidden=True, help="Internal."),
    ]
    _see_also = ["lpserve", "lp-serve", "lp-serve-ssh", "lp-serve-control"]

    def perform(
        self,
        verb: str,
        word_list: list[str] | None = None,
        account: str | None = None,
        sshd_config: str | None = None,
        units: str | None = None,
        **options: Any,
    ) -> int:
        given = {**options, "sshd_config": sshd_config, "units": units}
        name, words = _parse([verb, *(word_list or [])], given)
        from ..installation.place import find_place

        place = find_place(
            brz_words(),
            __version__,
            account,
            os.path.abspath(sshd_config) if sshd_config else None,
            os.path.abspath(units) if units else None,
            sys.stdin.read() or None if options.get("sshd_said") else None,
        )
        do = getattr(self, f"_do_{'_'.join(name)}")
        return do(place, words, options) or 0

    def _do_check(self, place: Any, words: list[str], options: dict[str, Any]) -> int:
        from ..installation import findings

        if place.is_own:
            from ..installation.check import check

            found = check(place)
        elif os.geteuid() == 0:
            from ..installation.asaccount import check_as_account

            where = [f"--sshd-config={place.sshd_config}"]
            if len(place.units) == 1:
                where.append(f"--units={place.units[0]}")
            found = check_as_account(place, where)
        else:
            raise _mod_errors.CommandError(
                f"only root and {place.account} can check its installation"
            )
        show = findings.format_json if options.get("json") else findings.format_text
        self.outf.write(show(found))
        return 1 if findings.problems(found) else 0

    def _do_user_add(
        self, place: Any, words: list[str], options: dict[str, Any]
    ) -> None:
        from ..installation.users import add_user

        self._print(add_user(place, options.get("server"), *words))

    def _do_user_list(
        self, place: Any, words: list[str], options: dict[str, Any]
    ) -> None:
        from ..installation.users import list_users

        self._print(list_users(place, options.get("server")))

    def _do_user_remove(
        self, place: Any, words: list[str], options: dict[str, Any]
    ) -> None:
        from ..installation.users import remove_user

        self._print(remove_user(place, options.get("server"), *words))

    def _do_files(self, place: Any, words: list[str], options: dict[str, Any]) -> None:
        from ..installation.templates import describe, write_files

        paths = write_files(place, words[0], bool(options.get("force")))
        self.outf.write(describe(paths))

    def _print(self, lines: list[str]) -> None:
        self.outf.write("".join(f"{line}\n" for line in lines))


def _parse(
    words: list[str], options: dict[str, Any]
) -> tuple[tuple[str, ...], list[str]]:
    """The verb, of one or two words, and the words after it.

    :raises CommandError: for what no verb can be given.
    """
    for name, (count, allowed) in _VERBS.items():
        if tuple(words[: len(name)]) != name:
            continue
        rest = words[len(name) :]
        shown = " ".join(name)
        if len(rest) != count:
            wanted = {0: "no words", 1: "one word", 2: "NAME and KEYFILE"}[count]
            raise _mod_errors.CommandError(f"{shown} takes {wanted}, not {len(rest)}")
        for option, value in options.items():
            if value and option not in allowed:
                option = {"server": "for"}.get(option, option).replace("_", "-")
                raise _mod_errors.CommandError(f"--{option} does not go with {shown}")
        return name, rest
    known = ", ".join(" ".join(name) for name in _VERBS)
    raise _mod_errors.CommandError(f"expected one of {known}")
