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
from typing import Any, NamedTuple

from common import arguments, run
from figures import ms, summary, table
from sshstage import connect, hosts, label
from stage import PLUGIN, BenchmarkError, Stage

FIELDS = ("server", "served_by", "connection", "began_s", "handshake_s", "answer_s")


class Row(NamedTuple):
    """A connection, as it is in the CSV file.

    :ivar served_by: see `sshstage.Host`.
    :ivar connection: which one to such a host, from 1.
    :ivar began: seconds after the first of all.
    :ivar handshake, answer: seconds after that.
    """

    server: str
    served_by: str
    connection: int
    began: float
    handshake: float
    answer: float


def measure(stage: Stage, chosen: argparse.Namespace) -> dict[str, Any]:
    rows: list[Row] = []
    with hosts(stage) as (service, found):
        for host in found:
            service.settle()
            connect(host)  # to warm the disk's cache
        started = time.perf_counter()
        for number in range(chosen.repeat):
            # Each comes after each other one.
            turn = number % len(found)
            for host in found[turn:] + found[:turn]:
                service.settle()
                began = time.perf_counter() - started
                times = connect(host)
                rows.append(Row(host.server, host.served_by, number + 1, began, *times))
    write(chosen.csv, rows)
    result = report(rows)
    result["text"] += draw(rows, chosen)
    return result


def draw(rows: list[Row], chosen: argparse.Namespace) -> str:
    """Draw the graph; a line for people."""
    try:
        import plots
    except ImportError as error:
        return f"not drawn, for which matplotlib is needed: {error}\n"
    plots.draw(rows, chosen.png, chosen.svg)
    return f"drawn: {chosen.png} and {chosen.svg}\n"


def write(path: str, rows: list[Row]) -> None:
    """Write the CSV file."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(FIELDS)
        for row in rows:
            writer.writerow([*row[:3], *(f"{each:.6f}" for each in row[3:])])


def read(path: str) -> list[Row]:
    """Read the CSV file.

    :raises BenchmarkError: if it is not one that `write` wrote.
    """
    try:
        with open(path, newline="") as file:
            return [
                Row(
                    each["server"],
                    each["served_by"],
                    int(each["connection"]),
                    *(float(each[name]) for name in FIELDS[3:]),
                )
                for each in csv.DictReader(file)
            ]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise BenchmarkError(f"cannot read {path}: {error!r}") from None


def report(rows: list[Row]) -> dict[str, Any]:
    """The result, as `common.run` takes it."""
    lines, figures = [], []
    for kind in dict.fromkeys((row.server, row.served_by) for row in rows):
        some = [row for row in rows if (row.server, row.served_by) == kind]
        series = {
            "handshake": [row.handshake for row in some],
            "answer": [row.answer for row in some],
            "between": [row.answer - row.handshake for row in some],
        }
        found = {name: summary(values) for name, values in series.items()}
        columns = [
            ms(found[name][which]) for name in series for which in ("median", "p99")
        ]
        share = found["answer"]["median"] / found["handshake"]["median"]
        lines.append([label(*kind), *columns, f"{share:.2f}"])
        figures.append({"server": kind[0], "served_by": kind[1], **found})
    head = ["ms from the exec of ssh", "let in", "p99", "answer", "p99"]
    return {
        "text": table([*head, "between", "p99", "answer / let in"], lines) + "\n",
        "unit": "seconds",
        "hosts": figures,
    }


def main() -> int:
    parser = arguments(__doc__, 40, "connections of each kind")
    place = os.path.join(PLUGIN, "doc", "connection_time")
    for kind in ("csv", "png", "svg"):
        parser.add_argument(
            f"--{kind}",
            metavar="FILE",
            default=f"{place}.{kind}",
            help=f"where to write the {kind.upper()} file (default: in doc/)",
        )
    parser.add_argument(
        "--draw-only",
        action="store_true",
        help="measure nothing, draw what is in the CSV file",
    )
    chosen = parser.parse_args()
    if not chosen.draw_only:
        return run("connection_time", parser, measure)
    try:
        print(draw(read(chosen.csv), chosen), end="")
    except BenchmarkError as error:
        print(f"connection_time: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
