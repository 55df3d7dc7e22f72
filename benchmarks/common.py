# SPDX-License-Identifier: GPL-2.0-or-later

"""The frame of a benchmark: its options, what it prints, its JSON file.

A benchmark compares lpserve with 'brz serve --inet' on the machine that it runs
on. All sides are measured in turns in one run, so that whatever else the machine
does is done to all of them. Needs no more than the standard library and Breezy.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from figures import filesystem, processor, shown_target
from sides import versions
from stage import BenchmarkError, Stage, conversation


def machine(stage: Stage) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": processor(),
        "kernel": platform.release(),
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "load": round(os.getloadavg()[0], 2),
        "runtime_filesystem": filesystem(stage.runtime),
        "versions": versions(stage),
    }


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
    parser.add_argument(
        f"--{name}",
        type=positive,
        default=default,
        metavar="N",
        help=f"{what} (default: {default})",
    )


def positive(text: str) -> int:
    """The value of an option."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def numbers(text: str) -> list[int]:
    """The value of an option: numbers with commas between them."""
    return [positive(each) for each in text.split(",")]


def run(
    name: str,
    parser: argparse.ArgumentParser,
    measure: Callable[[Stage, argparse.Namespace], dict[str, Any]],
    words: Sequence[str] | None = None,
) -> int:
    """Measure, print, write; the exit status.

    *measure* returns a dict to be written as JSON, of which ``text`` is printed,
    ``targets`` is a list of `target`, and ``failures`` a list of lines, without
    which the status is 0. A target that is missed says something of the
    machine too, so it does not count as a failure.
    """
    chosen = parser.parse_args(words)
    # So that what was started is stopped.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        with Stage() as stage:
            found = machine(stage)
            releases = ", ".join(f"{k} {v}" for k, v in found["versions"].items())
            print(
                f"{name}: {found['cores']} cores ({found['processor']}, "
                f"load {found['load']}), Linux {found['kernel']}, {releases}, "
                f"runtime directory on {found['runtime_filesystem']}\n",
                flush=True,
            )
            result = measure(stage, chosen)
    except (BenchmarkError, conversation.NoService) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(result["text"], end="")
    for each in result.setdefault("targets", []):
        print(shown_target(each))
    for line in result.setdefault("failures", []):
        print(f"FAILED: {line}")
    if chosen.json:
        with open(chosen.json, "w") as file:
            about = {"benchmark": name, "about": parser.description, "machine": found}
            json.dump({**about, **result}, file, indent=1)
            file.write("\n")
    return 1 if result["failures"] else 0
