# SPDX-License-Identifier: GPL-2.0-or-later

"""Runs a benchmark: options, interleaved rounds, statistics, tables, the JSON file.

A benchmark compares sides on one machine. Each round measures every side once, so
other load on the machine affects all sides alike. Results are medians with their
confidence intervals, and the ratios of two sides in the same round.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any, TypeVar

from stage import BenchmarkError, Stage, conversation

#: Verdicts on a target.
REACHED, MISSED, NOISY = "reached", "MISSED", "too noisy to tell"
#: The probability that the true median is outside the confidence interval.
_OUTSIDE = 0.05
#: Interquartile range divided by median; a larger one means a busy machine.
_CLOSE = 0.25
#: With fewer values the spread is not known.
FEW = 6
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


def in_rounds(
    sides: Mapping[_Key, Callable[[], _Value]], repeat: int, warm: int = 2
) -> dict[_Key, list[_Value]]:
    """Call every side once in each of *repeat* rounds; the values by side.

    The side that begins is another one in each round. The values of *warm* rounds
    before the first are dropped: these fill the caches.
    """
    names = list(sides)
    found: dict[_Key, list[_Value]] = {name: [] for name in names}
    for number in range(-warm, repeat):
        first = number % len(names)
        for name in [*names[first:], *names[:first]]:
            value = sides[name]()
            if number >= 0:
                found[name].append(value)
    return found


# -- statistics -------------------------------------------------------------------


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest value that at least *part* (0 to 1) of *values* do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The confidence interval of the median, for any distribution.

    The number of values below the true median is binomially distributed, so two of
    the sorted values are the limits.
    """
    ordered, number = sorted(values), len(values)
    outside = 0.0
    for left_out in range(number // 2):
        outside += math.comb(number, left_out) / 2 ** (number - 1)
        if outside > _OUTSIDE:
            return ordered[max(0, left_out - 1)], ordered[-max(1, left_out)]
    return ordered[0], ordered[-1]


def ratios(values: Sequence[float], to: Sequence[float]) -> list[float]:
    """*values* divided by those of another side in the same round."""
    return [a / b for a, b in zip(values, to, strict=True)]


def verdict(
    values: Sequence[float], wanted: float, at_most: bool, exact: bool = False
) -> str:
    """Whether the median is at most (or at least) *wanted*, if that can be told.

    :param exact: other load does not change the figure. Otherwise it is missed only
        if its best tenth misses it as well, and the values lie close together.
    """
    sign = 1 if at_most else -1
    ordered = sorted(value * sign for value in values)
    (best, worst), limit = interval(ordered), wanted * sign
    if worst <= limit:
        return REACHED
    if best <= limit:
        return NOISY
    width = percentile(ordered, 0.75) - percentile(ordered, 0.25)
    busy = percentile(ordered, 0.1) <= limit or width > _CLOSE * abs(median(ordered))
    return NOISY if not exact and (busy or len(values) < FEW) else MISSED


# -- what is found ----------------------------------------------------------------


def shown(value: float, digits: int = 2) -> str:
    """A figure as tables show it."""
    return f"{value:.{0 if abs(value) >= 1000 else digits}f}"


def span(values: Sequence[float], digits: int = 2) -> str:
    """The confidence interval of the median of *values*, as tables show it."""
    return " to ".join(shown(each, digits) for each in interval(values))


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A text table: the first column is left-aligned, the others right-aligned."""
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

    :ivar text: the tables.
    :ivar values: all measured values, by title and side.
    :ivar targets: tuples of figure, bound, median and verdict.
    :ivar failures: one line each; with any of them the exit status is 1. A missed
        target is none of them, because it depends on the machine.
    """

    def __init__(self) -> None:
        self.text = ""
        self.values: dict[str, dict[str, list[float]]] = {}
        self.targets: list[tuple[str, str, str, str]] = []
        self.failures: list[str] = []

    def figures(
        self, title: str, values: Mapping[str, list[float]], base: str | None = None
    ) -> None:
        """Add a table of *values*: those of each side, one for each round.

        :param base: a side; the table has the ratios of its values to the others'.
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
        """Add a table of another kind."""
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
        """Compare the median of *values* with the bound *wanted*."""
        bound = f"at {'most' if at_most else 'least'} {wanted:g} {unit}"
        value = f"{median(values):.4g} {unit}"
        said = verdict(values, wanted, at_most, exact)
        self.targets.append((figure, bound, value, said))


# -- the program ------------------------------------------------------------------


def options(text: str, **numbers: tuple[int, str]) -> argparse.ArgumentParser:
    """A parser with ``--json`` and an option for each of *numbers*.

    :param text: the docstring of the benchmark.
    :param numbers: by name, the default and what there are so many of.
    """
    parser = argparse.ArgumentParser(description=text.partition("\n")[0])
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE")
    for name, (default, what) in numbers.items():
        option, shown = "--" + name.replace("_", "-"), f"{what} (default: {default})"
        parser.add_argument(option, type=int, default=default, metavar="N", help=shown)
    return parser


def run(
    parser: argparse.ArgumentParser,
    measure: Callable[[Stage, argparse.Namespace], Result],
) -> int:
    """Measure, print, write the JSON file; the exit status."""
    chosen = parser.parse_args()
    name = os.path.splitext(os.path.basename(sys.argv[0]))[0]
    # An exception, so that what was started is stopped.
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
    """The machine, date and load that the figures depend on."""
    with open("/proc/cpuinfo") as file:
        model = re.search(r"model name\s*: (.*)", file.read())
    name = model[1] if model else platform.machine()
    about = [f"{len(os.sched_getaffinity(0))} cores ({name})"]
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
    """The version that a program prints."""
    environ = stage.environ("version")
    said = subprocess.check_output(words, env=environ, cwd=stage.path, text=True)
    return said.split()[-1]
