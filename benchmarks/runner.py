# SPDX-License-Identifier: GPL-2.0-or-later

"""The frame of a benchmark: its options, its rounds, what it prints, its JSON file.

A benchmark compares sides on the machine that it runs on. All sides are measured in
turns in one run, so that whatever else the machine does is done to all of them. What
counts is the median, with its confidence interval, and the ratio of two sides in each
round. Needs no more than the standard library and Breezy.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from stage import BenchmarkError, Stage, conversation

#: Verdicts on a target.
REACHED, MISSED, NOISY = "reached", "MISSED", "too noisy to tell"
#: How likely the median of all rounds that could be is outside of the interval.
_OUTSIDE = 0.05
#: What part of its median the middle half of a figure spans on a quiet machine.
_CLOSE = 0.25
#: Of fewer values nobody can tell how close they lie.
FEW = 6
_Side = TypeVar("_Side")


def in_turn(
    sides: Sequence[_Side], repeat: int, warm: int = 2
) -> Iterator[tuple[_Side, bool]]:
    """Each side as often as the others, and after each other one.

    Yields a side and whether it counts: the first rounds warm the disk's cache.
    """
    for number in range(-warm, repeat):
        turn = number % len(sides)
        for side in [*sides[turn:], *sides[:turn]]:
            yield side, number >= 0


# -- statistics -------------------------------------------------------------------


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest of *values* that at least *part* (0 to 1) of them do not pass."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def median(values: Sequence[float]) -> float:
    """The middle one of *values*, or the mean of the two in the middle."""
    ordered = sorted(values)
    half = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[half]
    return (ordered[half - 1] + ordered[half]) / 2


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The confidence interval of the median of what *values* are a sample of.

    From two of the sorted values, which needs no distribution: as many of a sample
    are below the median as there are heads among tosses of a coin.
    """
    ordered, number = sorted(values), len(values)
    outside = 0.0
    for left_out in range(number // 2):
        outside += math.comb(number, left_out) / 2 ** (number - 1)
        if outside > _OUTSIDE:
            return ordered[max(0, left_out - 1)], ordered[-max(1, left_out)]
    return ordered[0], ordered[-1]


def ratios(values: Sequence[float], to: Sequence[float]) -> list[float]:
    """*values* to those of another side, of each round."""
    return [a / b for a, b in zip(values, to, strict=True)]


def verdict(
    values: Sequence[float], wanted: float, at_most: bool, exact: bool = False
) -> str:
    """Whether the median is on the right side of *wanted*, as far as can be told.

    :param exact: other programs cannot make the figure worse. Where they can, it is
        missed only if its best tenth misses it too, and its middle half lies close
        together: on a busy machine it does not.
    """
    ordered = sorted(values, reverse=not at_most)
    (low, high), sign = interval(ordered), 1 if at_most else -1
    best, worst = (low, high) if at_most else (high, low)
    if worst * sign <= wanted * sign:
        return REACHED
    if best * sign <= wanted * sign:
        return NOISY
    tenth = ordered[max(0, math.ceil(len(ordered) / 10) - 1)]
    width = percentile(values, 0.75) - percentile(values, 0.25)
    busy = tenth * sign <= wanted * sign or width > _CLOSE * median(values)
    return NOISY if not exact and (busy or len(values) < FEW) else MISSED


# -- what is found ----------------------------------------------------------------


def shown(value: float, digits: int = 2) -> str:
    """A figure as tables have it."""
    return f"{value:.{0 if abs(value) >= 1000 else digits}f}"


def span(values: Sequence[float], digits: int = 2) -> str:
    """The interval of the median of *values*, as tables have it."""
    return " to ".join(shown(each, digits) for each in interval(values))


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table for people: the first column to the left, figures to the right."""
    lines = [list(head)]
    for row in rows:
        lines.append([shown(x) if isinstance(x, float) else str(x) for x in row])
    widths = [max(map(len, column)) for column in zip(*lines)]
    text = ""
    for first, *others in lines:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:])]
        text += "  ".join([first.ljust(widths[0]), *cells]).rstrip() + "\n"
    return text


class Result:
    """What a benchmark has found.

    :ivar text: for people.
    :ivar values: by title and side, all that was measured.
    :ivar targets: figures, what they are to be, what they are, and the verdict.
    :ivar failures: lines, without which the exit status is 0. A target that is missed
        says something of the machine too, so it is none.
    """

    def __init__(self) -> None:
        self.text = ""
        self.values: dict[str, dict[str, list[float]]] = {}
        self.targets: list[tuple[str, str, str, str]] = []
        self.failures: list[str] = []

    def figures(
        self, title: str, values: Mapping[str, list[float]], base: str | None = None
    ) -> None:
        """A table of *values* by side, one for each round.

        :param base: a side; how many times less than that the others take.
        """
        self.values[title] = dict(values)
        head = [title, "runs", "p10", "median", "its interval", "p99"]
        rows = []
        for side, each in values.items():
            row: list[object] = [side, len(each), percentile(each, 0.1), median(each)]
            row += [span(each), percentile(each, 0.99)]
            if base is not None:
                less = ratios(values[base], each)
                row += [median(less), span(less)]
            rows.append(row)
        self.table([*head, *(["times less", "its interval"] if base else [])], rows)

    def table(self, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """A table of another kind."""
        self.text += table(head, rows) + "\n"

    def target(
        self,
        figure: str,
        values: Sequence[float],
        wanted: float,
        unit: str = "times",
        at_most: bool = False,
        exact: bool = False,
    ) -> None:
        """The median of *values* is to be at least (or at most) *wanted*."""
        bound = f"at {'most' if at_most else 'least'} {wanted:g} {unit}"
        value = f"{median(values):.4g} {unit}"
        said = verdict(values, wanted, at_most, exact)
        self.targets.append((figure, bound, value, said))


# -- the program ------------------------------------------------------------------


def arguments(text: str, repeat: int = 0, what: str = "") -> argparse.ArgumentParser:
    """A parser with the options that benchmarks have.

    :param repeat: the default of ``--repeat``; 0 if there is no such option.
    """
    parser = argparse.ArgumentParser(description=text.partition("\n")[0])
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE")
    if repeat:
        add_number(parser, "repeat", repeat, what)
    return parser


def add_number(
    parser: argparse.ArgumentParser, name: str, default: int, what: str
) -> None:
    """Add the option ``--NAME N``, which says how many there are of something."""
    shown = f"{what} (default: {default})"
    parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=shown)


def run(
    name: str,
    parser: argparse.ArgumentParser,
    measure: Callable[[Stage, argparse.Namespace], Result],
) -> int:
    """Measure, print, write; the exit status."""
    chosen = parser.parse_args()
    # So that what was started is stopped.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        with Stage() as stage:
            found = machine(stage)
            print(f"{name}: {found['machine']}, load {found['load']}\n", flush=True)
            result = measure(stage, chosen)
    except (BenchmarkError, conversation.NoService) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(result.text, end="")
    for figure, wanted, value, said in result.targets:
        print(f"{figure}: {value} (wanted: {wanted}) {said}")
    for line in result.failures:
        print(f"FAILED: {line}")
    if chosen.json:
        about = {"benchmark": name, "about": parser.description, **found}
        with open(chosen.json, "w") as file:
            json.dump({**about, **vars(result)}, file, indent=1)
            file.write("\n")
    return 1 if result.failures else 0


# -- the machine ------------------------------------------------------------------


def machine(stage: Stage) -> dict[str, Any]:
    """What the figures depend on."""
    about = [f"{len(os.sched_getaffinity(0))} cores ({processor()})"]
    about += [f"Linux {platform.release()}", f"Python {platform.python_version()}"]
    about += [f"Breezy {version(stage, *stage.brz, 'version', '--short')}"]
    if shutil.which("git"):
        about += [f"git {version(stage, 'git', 'version')}"]
    about += [f"runtime directory in {os.path.dirname(stage.runtime)}"]
    return {
        "machine": ", ".join(about),
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "load": round(os.getloadavg()[0], 2),
    }


def version(stage: Stage, *words: str) -> str:
    """What a program says of its version."""
    environ = stage.environ("version")
    said = subprocess.check_output(words, env=environ, cwd=stage.path, text=True)
    return said.split()[-1]


def processor() -> str:
    """What this machine computes with."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    return platform.machine()
