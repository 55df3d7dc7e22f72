# SPDX-License-Identifier: GPL-2.0-or-later

"""The connection-time graph: ssh handshake and smart server's answer, over ssh.

Connects to sshd and to lp-serve-ssh, with and without the fork service. It writes a
CSV file with two times of each connection, from the exec of ``ssh``: to the end of the
handshake, and to the answer to ``hello``. The difference is the wait for the smart
server. The times are drawn as PNG and SVG.

The client is OpenSSH's ssh, called as Breezy calls it. A client in Python would spend
more time on its own cryptography.
"""

from __future__ import annotations

import argparse
import csv
import functools
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from runner import Result, in_rounds, median, options, ratios, run
from sshstage import LP_SERVE_SSH, NOTHING, PROCESS, SERVICE, SSHD, connect, hosts
from stage import PLUGIN, Stage

LABELS = {
    (SSHD, NOTHING): "sshd, a command that prints",
    (SSHD, PROCESS): "sshd, brz serve --inet",
    (SSHD, SERVICE): "sshd, lp-serve-client",
    (LP_SERVE_SSH, PROCESS): "lp-serve-ssh, a process",
    (LP_SERVE_SSH, SERVICE): "lp-serve-ssh, fork service",
}
#: They differ in brightness, for prints in grey.
_HANDSHAKE, _ANSWER, _WAIT = "#5b9bd5", "#8b1a1a", "#f6dcd2"
_LEGEND = (
    "the smart server has answered",
    "the ssh handshake is done",
    "the client waits for the smart server",
)
_STYLE = {
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    # Text as text, which is smaller than outlines and can be searched.
    "svg.fonttype": "none",
    # The same figures give the same bytes.
    "svg.hashsalt": "lpserve",
}


class Row(NamedTuple):
    """A connection, as a line of the CSV file has it.

    :ivar server, served_by: see `sshstage.Host`.
    :ivar connection: its number, from 1, among those to the same host.
    :ivar began: seconds after the first of all.
    :ivar handshake, answer: milliseconds after that.
    """

    server: str
    served_by: str
    connection: int
    began: float
    handshake: float
    answer: float


def measure(stage: Stage, chosen: argparse.Namespace) -> Result:
    started = time.perf_counter()

    def once(ssh: Sequence[str]) -> tuple[float, ...]:
        service.settle()
        began = time.perf_counter() - started
        return (began, *connect(ssh))

    with hosts(stage) as (service, found):
        ways = {host: functools.partial(once, ssh) for host, ssh in found.items()}
        made = in_rounds(ways, chosen.repeat, warm=1)
    rows = [
        Row(*host, number, *times)
        for host, of_host in made.items()
        for number, times in enumerate(of_host, 1)
    ]
    series = {title: {} for title in ("until let in", "until answered", "between")}
    for host, label in LABELS.items():
        pairs = [(handshake, answer) for _, handshake, answer in made[host]]
        values = zip(*((first, last, last - first) for first, last in pairs))
        for of_side, each in zip(series.values(), values):
            of_side[label] = list(each)
    result = Result()
    for title, of_side in series.items():
        result.figures(f"ms {title}", of_side, LABELS[SSHD, PROCESS])
    for server, less in ((SSHD, 2), (LP_SERVE_SSH, 20)):
        label = LABELS[server, SERVICE]
        waits = of_side[LABELS[server, PROCESS]], of_side[label]
        figure = f"between handshake and answer, {label}, than a process"
        result.target(figure, ratios(*waits), less)
    os.makedirs(os.path.dirname(chosen.to), exist_ok=True)
    write(chosen.to + ".csv", sorted(rows, key=lambda row: row.began))
    try:
        draw(rows, chosen.to)
    except ImportError as error:
        result.text += f"not drawn, for which matplotlib is needed: {error}\n"
    return result


def write(path: str, rows: Sequence[Row]) -> None:
    """Write the CSV file."""
    head = ("server", "served_by", "connection", "began_s", "handshake_s", "answer_s")
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        for row in rows:
            times = (row.began, row.handshake / 1000, row.answer / 1000)
            writer.writerow([*row[:3], *(f"{each:.6f}" for each in times)])


def draw(rows: Sequence[Row], path: str) -> None:
    """Draw the graph as *path*.png and *path*.svg.

    :raises ImportError: if there is no matplotlib.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    servers = list(dict.fromkeys(row.server for row in rows))
    with pyplot.rc_context(_STYLE):
        figure, panels = pyplot.subplots(
            1, len(servers), sharey=True, figsize=(10, 5), layout="constrained"
        )
        for panel, server in zip(panels, servers):
            _panel(panel, server, [row for row in rows if row.server == server])
        panels[0].set_ylabel("time since the start of ssh [ms]")
        # Room for the text above the lines.
        panels[0].set_ylim(0, max(row.answer for row in rows) * 1.26)
        figure.suptitle(
            "Connection time over bzr+ssh, without and with the fork service",
            fontsize=13,
            fontweight="bold",
        )
        figure.legend(
            [*panels[0].lines[:2], panels[0].collections[0]],
            _LEGEND,
            loc="outside lower center",
            ncols=3,
            frameon=False,
        )
        figure.savefig(path + ".png", dpi=120, metadata={"Software": None})
        figure.savefig(path + ".svg", metadata={"Date": None})
        pyplot.close(figure)


def _panel(panel: Any, server: str, rows: Sequence[Row]) -> None:
    """Draw one server: on the left without the fork service, on the right with it."""
    halves = [[x for x in rows if x.served_by == kind] for kind in (PROCESS, SERVICE)]
    nothing = [row for row in rows if row.served_by == NOTHING]
    count = max(map(len, halves))
    gap = 1 + count // 8
    ticks: dict[int, str] = {}
    for start, half, words in zip((0, count + gap), halves, ("without", "with")):
        numbers = [start + row.connection for row in half]
        handshake = [row.handshake for row in half]
        answer = [row.answer for row in half]
        panel.plot(numbers, answer, "o-", color=_ANSWER, lw=1.5, ms=3)
        panel.plot(numbers, handshake, color=_HANDSHAKE, lw=2.2)
        panel.fill_between(numbers, handshake, answer, color=_WAIT, lw=0)
        apart = f"{_apart(half)} ms apart (median)"
        if start and nothing:
            apart += f",\n{_apart(nothing)} ms of that is sshd's own"
        panel.annotate(
            f"{words} the fork service\n{apart}",
            (start + (count + 1) / 2, 0.985),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="top",
            backgroundcolor="white",
        )
        step = max(1, count // 4)
        ticks |= {start + n: str(n) for n in (1, *range(step, count + 1, step))}
    panel.axvline(count + (gap + 1) / 2, color="0.45", lw=1, ls=(0, (4, 3)))
    panel.set_xlim(0, 2 * count + gap + 1)
    panel.set_xticks(list(ticks), list(ticks.values()))
    panel.set_xlabel("connection (those without and those with it were made in turn)")
    panel.set_title(server, fontweight="bold")
    panel.grid(axis="y", color="0.9", lw=0.8)
    panel.set_axisbelow(True)


def _apart(rows: Sequence[Row]) -> str:
    """The median time between handshake and answer, in milliseconds."""
    found = median([row.answer - row.handshake for row in rows])
    return f"{found:.0f}" if found >= 10 else f"{found:.1f}"


if __name__ == "__main__":
    parser = options(__doc__, repeat=(40, "connections of each kind"))
    parser.add_argument(
        "--to",
        metavar="PATH",
        default=os.path.join(PLUGIN, "doc", "connection_time"),
        help="write PATH.csv, PATH.png and PATH.svg (default: in doc/)",
    )
    sys.exit(run(parser, measure))
