# SPDX-License-Identifier: GPL-2.0-or-later

"""The connection-time graph: ssh handshake and smart server's answer, over ssh.

Connects to sshd and to lp-serve-ssh, with and without the fork service, in turn,
and writes two times of every connection to a CSV file, from the exec of ``ssh``:
until the server has let it in, and until the answer to ``hello`` has come. What is
between them is what the client waits for the smart server. They are drawn as PNG
and SVG.

The client is OpenSSH's ssh, called as Breezy calls it, since that is what people
have. It says on standard error, unbuffered and in one line (LogLevel=VERBOSE),
when it has been let in; a client written in Python would measure its own
cryptography at every login.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from runner import Result, arguments, in_turn, median, ratios, run
from sshstage import Host, connect, hosts
from stage import PLUGIN, Stage

LABELS = {
    ("sshd", "nothing"): "sshd, a command that prints",
    ("sshd", "process"): "sshd, brz serve --inet",
    ("sshd", "service"): "sshd, lp-serve-client",
    ("lp-serve-ssh", "process"): "lp-serve-ssh, a process",
    ("lp-serve-ssh", "service"): "lp-serve-ssh, fork service",
}
#: The series of each host: how they are called, and what they are of a row.
SERIES = {
    "ms until let in": lambda row: row.handshake,
    "ms until answered": lambda row: row.answer,
    "ms between": lambda row: row.answer - row.handshake,
}


#: Light and dark, so that they differ in grey too.
_HANDSHAKE, _ANSWER, _WAIT = "#5b9bd5", "#8b1a1a", "#f6dcd2"
_STYLE = {
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    # Text that can be read and searched, and takes less room than its outlines.
    "svg.fonttype": "none",
    # The same drawing from the same figures, byte for byte.
    "svg.hashsalt": "lpserve",
}


class Row(NamedTuple):
    """A connection.

    :ivar server, served_by: see `sshstage.Host`.
    :ivar connection: which one to such a host, from 1.
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
    rows: list[Row] = []
    numbers: dict[Host, int] = {}
    with hosts(stage) as (service, found):
        started = time.perf_counter()
        for host, counts in in_turn(found, chosen.repeat, warm=1):
            service.settle()
            began = time.perf_counter() - started
            times = connect(host.config)
            if counts:
                number = numbers[host] = numbers.get(host, 0) + 1
                rows.append(Row(host.server, host.served_by, number, began, *times))
    result = Result()
    for title, of in SERIES.items():
        values: dict[str, list[float]] = {}
        for row in rows:
            values.setdefault(LABELS[row[:2]], []).append(of(row))
        result.figures(title, values, LABELS["sshd", "process"])
    # Those of the last series: what they wait for the smart server.
    for way, less in ((("sshd", "service"), 2), (("lp-serve-ssh", "service"), 20)):
        than = values[LABELS[way[0], "process"]]
        figure = f"between handshake and answer, {LABELS[way]}"
        result.target(
            f"{figure}, than a process", ratios(than, values[LABELS[way]]), less
        )
    os.makedirs(os.path.dirname(chosen.to), exist_ok=True)
    write(chosen.to + ".csv", rows)
    try:
        draw(rows, chosen.to)
    except ImportError as error:
        result.text += f"not drawn, for which matplotlib is needed: {error}\n"
    return result


def write(path: str, rows: list[Row]) -> None:
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

    :raises ImportError: if there is no matplotlib, which nothing else here needs.
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
        # Room for what is written above the lines.
        panels[0].set_ylim(0, max(row.answer for row in rows) * 1.26)
        figure.suptitle(
            "Connection time over bzr+ssh, without and with the fork service",
            fontsize=13,
            fontweight="bold",
        )
        figure.legend(
            *panels[0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=3,
            frameon=False,
        )
        figure.savefig(path + ".png", dpi=120, metadata={"Software": None})
        figure.savefig(path + ".svg", metadata={"Date": None})
        pyplot.close(figure)


def _panel(panel: Any, server: str, rows: Sequence[Row]) -> None:
    """One server: on the left without the fork service, on the right with it."""
    kinds = {
        kind: [row for row in rows if row.served_by == kind]
        for kind in ("process", "service", "nothing")
    }
    halves = [kinds["process"], kinds["service"]]
    count = max(map(len, halves))
    gap = 1 + count // 8
    ticks: dict[int, str] = {}
    for start, half, words in zip((0, count + gap), halves, ("without", "with")):
        numbers = [start + row.connection for row in half]
        handshake = [row.handshake for row in half]
        answer = [row.answer for row in half]
        # One entry of the legend for both halves.
        hide = "_" if start else ""
        label = f"{hide}the smart server has answered"
        panel.plot(numbers, answer, "o-", color=_ANSWER, lw=1.5, ms=3, label=label)
        label = f"{hide}the ssh handshake is done"
        panel.plot(numbers, handshake, color=_HANDSHAKE, lw=2.2, label=label)
        label = f"{hide}the client waits for the smart server"
        panel.fill_between(numbers, handshake, answer, color=_WAIT, lw=0, label=label)
        apart = f"{_apart(half)} ms apart (median)"
        if start and kinds["nothing"]:
            apart += f",\n{_apart(kinds['nothing'])} ms of that is sshd's own"
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
    """The median of what is between handshake and answer, in milliseconds."""
    found = median([row.answer - row.handshake for row in rows])
    return f"{found:.0f}" if found >= 10 else f"{found:.1f}"


if __name__ == "__main__":
    parser = arguments(__doc__, 40, "connections of each kind")
    parser.add_argument(
        "--to",
        metavar="PATH",
        default=os.path.join(PLUGIN, "doc", "connection_time"),
        help="what is written: PATH.csv, .png and .svg (default: in doc/)",
    )
    sys.exit(run("connection_time", parser, measure))
