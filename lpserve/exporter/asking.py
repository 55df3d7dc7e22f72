# SPDX-License-Identifier: GPL-2.0-or-later

"""Asks the service for what the metrics are made of, and whether it is healthy."""

from __future__ import annotations

import json
import logging
import re
import time
from dataclasses import dataclass, field
from typing import Any

from ..client.conversation import ClientError, NoService
from ..client.health import health_fault
from ..client.socketconversation import SocketConversation
from ..drained import read_drained
from ..sshstate import SshState, read_states
from .processes import Measured, measure

log = logging.getLogger("lpserve")

#: Seconds that the service has to answer, less than Prometheus's scrape_timeout (10).
PATIENCE = 5.0
#: The longest answer in bytes: the status lists hundreds of repositories.
_LONGEST = 8 << 20
_path = re.compile(r"(?<!\S)/\S+")


@dataclass(frozen=True)
class Found:
    """What was found out at one moment.

    :ivar fault: why the service is down for us; "" if it has answered.
    :ivar metrics, status: its answers, or nothing.
    :ivar drained: whether the host is out of service.
    :ivar ssh: what each lp-serve-ssh tells.
    """

    fault: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    drained: bool = False
    measured: Measured = field(default_factory=Measured)
    ssh: list[SshState] = field(default_factory=list)


class Asking:
    """Asks the service in a runtime directory.

    :param directory: the runtime directory.
    :param service_user: whose service is trusted beside our own and root's.
    :param patience: in seconds.
    """

    def __init__(
        self, directory: str, service_user: str | None, patience: float = PATIENCE
    ):
        self._directory = directory
        self._user = service_user
        self._patience = patience
        self._faults = {"metrics": "", "health": ""}

    def find(self) -> Found:
        """Ask; a service that does not answer is a fault in what is found."""
        metrics: dict[str, Any] = {}
        status: dict[str, Any] = {}
        fault = ""
        try:
            metrics, status = self._ask("metrics", "status")
        except (NoService, ClientError, OSError, ValueError) as error:
            fault = str(error)
        self._note("metrics", fault)
        return Found(
            fault,
            metrics,
            status,
            read_drained(self._directory, self._user) is not None,
            measure(status.get("pid"), status.get("zygote")),
            read_states(self._directory, self._user),
        )

    def _ask(self, *verbs: str) -> list[dict[str, Any]]:
        deadline = time.monotonic() + self._patience
        talk = SocketConversation(self._directory, None, self._user)
        talk.longest = _LONGEST
        try:
            return [_answer(talk, verb, deadline) for verb in verbs]
        finally:
            talk.close()

    def health(self) -> str:
        """Why no worker serves connections now; "" if one does.

        It names no path: whoever may read it need not be an administrator.
        """
        fault = health_fault(self._directory, self._user) or ""
        self._note("health", fault)
        shown = _path.sub("...", fault.replace(f" at {self._directory}", ""))
        return shown.encode("utf-8", "replace").decode()

    def _note(self, what: str, fault: str) -> None:
        """Log *fault* once."""
        if fault != self._faults[what]:
            self._faults[what] = fault
            if fault:
                log.warning("%s: %s", what, fault)
            else:
                log.info("%s: all is well again", what)


def _answer(talk: SocketConversation, verb: str, deadline: float) -> dict[str, Any]:
    """What the service answers to *verb*.

    :raises NoService, ClientError: if it gives no answer.
    :raises ValueError: if it gives another one.
    """
    talk.send([verb], deadline)
    answer = talk.wait_answer(deadline)
    if answer[0] != "ok" or len(answer) != 2:
        raise ValueError(f"the service refuses {verb}: {' '.join(answer[1:])[:300]}")
    try:
        found = json.loads(answer[1])
    except RecursionError:
        raise ValueError(f"the answer to {verb} is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError(f"the answer to {verb} is no object")
    return found
