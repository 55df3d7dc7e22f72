# SPDX-License-Identifier: GPL-2.0-or-later

"""Has root's check made as the account: what that may not do is then seen."""

from __future__ import annotations

import json
import os

from .findings import Finding, error
from .place import Place
from .programs import run
from .sshdsettings import SshdFault, ask_sshd

#: Seconds until the check has ended.
_PATIENCE = 300.0


def check_as_account(place: Place, options: list[str]) -> list[Finding]:
    """Run ``lp-serve-setup check`` as the account of *place*; what it has found.

    Only root can ask sshd for its configuration, so its answer is handed on.

    :param options: of the command.
    """
    try:
        said = ask_sshd(place).text
    except SshdFault as fault:
        said = f"!{fault}" if fault.of_file else ""
    words = [*place.brz, "lp-serve-setup", "check", "--json", "--sshd-said"]
    words += [f"--account={place.account}", *options]
    groups = os.getgrouplist(place.account, place.gid)
    done = run(
        words, place.environ, said, _PATIENCE, (place.uid, place.gid, list(groups))
    )
    try:
        return [Finding(**each) for each in json.loads(done.out)["findings"]]
    except (ValueError, KeyError, TypeError):
        command = " ".join(place.brz)
        return [
            error(
                f"{place.account} cannot run {command} lp-serve-setup: {done.why}",
                f"install Breezy and brz-lpserve where {place.account} can run them",
            )
        ]
