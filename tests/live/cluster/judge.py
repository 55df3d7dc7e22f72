# SPDX-License-Identifier: GPL-2.0-or-later

"""Says of each attempt of clients which host it ran on, and why it has failed.

HAProxy's log (``option tcplog``) has a line for each connection: the client's address,
which no two attempts share, the host, the time and how long it took.
"""

from __future__ import annotations

import datetime
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any, NamedTuple

#: Seconds by which clocks and logs may differ.
BLUR = 0.2

_connection = re.compile(
    r"(?P<peer>[0-9.]+):\d+ \[(?P<at>[^]]+)\] \S+ hosts/(?P<host>\S+) "
    r"(?P<queue>-?\d+)/(?P<connect>-?\d+)/\+?(?P<all>\d+) \d+ (?P<state>\S\S) "
)


class Served(NamedTuple):
    """A connection: the host, and from when to when it was there."""

    host: str
    began: float
    ended: float
    state: str


@dataclass
class Loss:
    """All processes of a host were killed.

    :ivar at: when.
    :ivar noticed: when HAProxy said so; from then on it sent no connections there.
    """

    host: str
    at: float
    noticed: float = 0.0

    def hit(self, served: Served) -> bool:
        """Whether a connection was on the host then."""
        return (
            served.host == self.host
            and served.began < self.noticed + BLUR
            and served.ended > self.at - BLUR
        )


def connections(log: str) -> dict[str, list[Served]]:
    """What HAProxy's log tells of connections, by the addresses of clients."""
    found = defaultdict(list)
    for match in _connection.finditer(log):
        at = datetime.datetime.strptime(match["at"], "%d/%b/%Y:%H:%M:%S.%f")
        began = at.replace(tzinfo=datetime.timezone.utc).timestamp()
        ended = began + int(match["all"]) / 1000
        found[match["peer"]].append(Served(match["host"], began, ended, match["state"]))
    return dict(found)


class Judgement:
    """What came of all attempts.

    :param reports: what clients have reported.
    :param log: HAProxy's.
    :ivar counts: attempts that have succeeded, by kind.
    :ivar failures: attempts that have failed, by cause, and the host if it was one.
    :ivar unexplained: attempts that should have succeeded, and where they ran.
    :ivar pushed: by branch the revisions that were reported to be there.
    :ivar longest: seconds that the longest attempt took, and its kind.
    """

    def __init__(self, reports: list[dict[str, Any]], log: str, losses: list[Loss]):
        self.counts: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.unexplained: list[tuple[dict[str, Any], list[Served]]] = []
        self.pushed: dict[str, list[bytes]] = defaultdict(list)
        self.longest = (0.0, "")
        self._served = connections(log)
        self._losses = losses
        for each in reports:
            if "kind" in each:
                self._take(each)

    def _take(self, report: dict[str, Any]) -> None:
        took = report["ended"] - report["began"]
        if report["kind"] != "begin":  # when all begin at once
            self.longest = max(self.longest, (took, report["kind"]))
        if report["status"] == 0:
            self.counts[report["kind"]] += 1
            self.counts["locks broken"] += report.get("broken", 0)
            if "changed" in report:
                self.pushed[report["changed"]].append(report["tip"][1].encode())
            return
        served = self._served.get(report["from"], [])
        cause = self._cause(report, served)
        self.failures[cause or "unexplained"] += 1
        if cause is None:
            self.unexplained.append((report, served))

    def _cause(self, report: dict[str, Any], served: list[Served]) -> str | None:
        for loss in self._losses:
            if any(loss.hit(each) for each in served):
                return f"host {loss.host} killed"
        if report["kind"] == "share" and "have diverged" in report["said"]:
            return "others were faster"
        if "Could not acquire lock" in report["said"]:
            # Of a live one, or of one that is dead: clients found out, and broke it.
            return "locked"
        return None
