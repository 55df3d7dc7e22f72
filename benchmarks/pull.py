# SPDX-License-Identifier: GPL-2.0-or-later

"""How long a user waits: 'brz pull' over bzr+ssh with nothing to pull.

The whole command, from its exec to its end, from sshd and from lp-serve-ssh, with
and without the fork service, in turn. Beside it, what no server can shorten: the
client's own start ('brz rocks'), the same pull from a directory, and the login. What
a pull takes beyond the latter two is the wait for the server, some ten requests,
and what the client loads for ssh (Breezy imports paramiko wherever it is installed).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from typing import Any

from common import arguments, run
from figures import median, ms, summary, table
from sshstage import LP_SERVE_SSH, NOTHING, SERVICE, SSHD, connect, hosts
from stage import DEADLINE, BenchmarkError, Stage

START, LOCAL = "brz's own start", "pull from a directory"
#: Revisions of the branch; they are looked at, not transferred.
REVISIONS = 20
_UP_TO_DATE = "No revisions or tags to pull."


class Client:
    """Breezy without lpserve, as users have it; its branch is *work*."""

    def __init__(self, stage: Stage):
        self._brz = stage.brz
        self._environ = stage.environ("client", plugin=False)
        self._environ["BRZ_EMAIL"] = "Alice <alice@example.com>"
        self.source = os.path.join(stage.root, "branch")
        self.work = os.path.join(stage.path, "work")

    def run(self, *words: str, cwd: str | None = None, ssh: str = "ssh") -> str:
        """Run ``brz``; what it wrote."""
        done = subprocess.run(
            [*self._brz, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**self._environ, "BRZ_SSH": ssh},
            cwd=cwd or self.work,
            timeout=DEADLINE,
            text=True,
        )
        if done.returncode:
            raise BenchmarkError(f"brz {' '.join(words)}: {done.stdout.strip()}")
        return done.stdout

    def prepare(self, repository: str | None) -> None:
        """Make the branch that is served, and the user's copy of it.

        :param repository: one that is there, to be used instead.
        """
        if repository:
            shutil.copytree(repository, self.source, symlinks=True)
        else:
            self._make()
        self.run("branch", "--quiet", "--no-tree", self.source, self.work, cwd="/")

    def _make(self) -> None:
        self.run("init", "--quiet", self.source, cwd="/")
        for number in range(REVISIONS):
            with open(os.path.join(self.source, "file"), "a") as file:
                file.write(f"line {number}\n")
            if not number:
                self.run("add", "--quiet", cwd=self.source)
            message = f"--message=revision {number}"
            self.run("commit", "--quiet", message, cwd=self.source)

    def pull(self, url: str, ssh: str = "ssh") -> float:
        """Pull nothing from *url*; the seconds that it took."""
        began = time.perf_counter()
        said = self.run("pull", url, ssh=ssh)
        took = time.perf_counter() - began
        if _UP_TO_DATE not in said:
            raise BenchmarkError(f"brz pull {url}: {said.strip()}")
        return took

    def start(self) -> float:
        """Do nothing; the seconds that it took."""
        began = time.perf_counter()
        self.run("rocks")
        return time.perf_counter() - began


def measure(stage: Stage, chosen: argparse.Namespace) -> dict[str, Any]:
    client = Client(stage)
    client.prepare(chosen.repository)
    with hosts(stage) as (service, found):
        served = [host for host in found if host.served_by != NOTHING]
        times: dict[str, list[float]] = {START: [], LOCAL: []}
        times |= {host.label: [] for host in served}
        logins: dict[str, list[float]] = {SSHD: [], LP_SERVE_SSH: []}
        ways = list(times)
        by_label = {host.label: host for host in served}
        for number in range(-1, chosen.repeat):
            turn = number % len(ways)
            for way in ways[turn:] + ways[:turn]:
                service.settle()
                if way == START:
                    took = client.start()
                elif way == LOCAL:
                    took = client.pull(client.source)
                else:
                    host = by_label[way]
                    url = f"bzr+ssh://{host.name}/branch"
                    took = client.pull(url, host.program)
                if number >= 0:  # the first ones warm the disk's cache
                    times[way].append(took)
            for host in served:
                if host.served_by == SERVICE:
                    service.settle()
                    logins[host.server].append(connect(host)[0])
    return report(times, logins, {host.label: host.server for host in served})


def report(
    times: dict[str, list[float]],
    logins: dict[str, list[float]],
    servers: dict[str, str],
) -> dict[str, Any]:
    """The result, as `common.run` takes it."""
    today = {
        servers[label]: median(times[label])
        for label in reversed(servers)  # the first of each server is without it
    }
    local = median(times[LOCAL])
    rows = []
    for way, values in times.items():
        found = summary(values)
        row = [way, *(ms(found[name]) for name in ("median", "p99", "min", "max"))]
        if way in servers:
            server = servers[way]
            # What is left beyond a pull that needs no server, and a login.
            more = found["median"] - local - median(logins[server])
            row += [f"{today[server] / found['median']:.2f}", ms(more)]
        else:
            row += ["", ""]
        rows.append(row)
    for server, values in logins.items():
        found = summary(values)
        shown = (ms(found[name]) for name in ("median", "p99", "min", "max"))
        rows.append([f"ssh login, {server}", *shown, "", ""])
    head = ["ms of the whole command", "median", "p99", "min", "max", "ratio"]
    return {
        "text": table([*head, "beyond both"], rows) + "\n",
        "unit": "seconds",
        "ways": {way: summary(values) for way, values in times.items()},
        "logins": {server: summary(values) for server, values in logins.items()},
        "times": times,
    }


def main() -> int:
    parser = arguments(__doc__, 20, "pulls each way")
    parser.add_argument("--repository", metavar="BRANCH", help="one with a history")
    return run("pull", parser, measure)


if __name__ == "__main__":
    sys.exit(main())
