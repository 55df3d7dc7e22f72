# SPDX-License-Identifier: GPL-2.0-or-later

"""Run all benchmarks, one after the other, and write one report.

Each benchmark writes its figures to build/bench/ as JSON. build/bench/report.html has
all of them, also those of earlier runs, and the connection-time graph. The exit status
is 1 if a benchmark failed, but not if a target is missed.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import html
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from stage import PLUGIN

DIRECTORY = os.path.join(PLUGIN, "build", "bench")
#: The benchmarks in the order of the report, with their options for --quick.
PROGRAMS = {
    "first_byte": ["--repeat=5"],
    "cpu": ["--repeat=2", "--per-round=5"],
    "memory": ["--repeat=10", "--connections=50"],
    "concurrency": ["--repeat=1", "--at-most=10", "--connections=200"],
    "relay": ["--repeat=1", "--mib=128"],
    "sandbox": ["--repeat=1", "--per-round=5"],
    "access": ["--repeat=5"],
    "steps": ["--repeat=5"],
    "upgrades": ["--repeat=2"],
    "imports": [],
    "connection_time": ["--repeat=3"],
    "ssh_flood": ["--repeat=2"],
    "logins": ["--repeat=2"],
    "streams": ["--repeat=1", "--branches=1"],
    "warm": ["--repeat=2", "--revisions=1500", "--files=200", "--rounds=10"],
}

_HEAD = """\
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>lpserve: figures</title>
<style>
body { font: 15px/1.5 sans-serif; max-width: 68em; margin: 2em auto }
th, td { border-bottom: 1px solid #ccc; padding: .25em .8em; text-align: left }
.reached { color: #1a6b2a }
.MISSED { color: #8b1a1a }
pre { font: 12px/1.4 monospace; overflow-x: auto }
img { max-width: 100% }
</style>
<h1>lpserve: figures</h1>
<table>
<tr><th>figure</th><th>target</th><th>measured</th><th></th></tr>
"""


def run_all(names: Sequence[str], quick: bool) -> int:
    """Run the programs *names*; how many of them failed."""
    here = os.path.dirname(os.path.abspath(__file__))
    failed = 0
    for name in names:
        place = os.path.join(DIRECTORY, name)
        words = [os.path.join(here, name + ".py"), f"--json={place}.json"]
        if name == "connection_time":
            words.append(f"--to={place}")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(place + ".json")  # of an earlier run
        began = time.monotonic()
        more = PROGRAMS[name] if quick else []
        with subprocess.Popen([sys.executable, *words, *more]) as program:
            try:
                failed += program.wait() != 0
            except BaseException:
                # It stops what it has started.
                program.terminate()
                program.wait()
                raise
        print(f"\n-- {name}: {time.monotonic() - began:.0f} s --\n", flush=True)
    return failed


def read() -> list[dict[str, Any]]:
    """The figures of all benchmarks that have written theirs."""
    found = []
    for name in PROGRAMS:
        path = os.path.join(DIRECTORY, name + ".json")
        with contextlib.suppress(FileNotFoundError), open(path) as file:
            found.append(json.load(file))
    return found


def page(results: Sequence[Mapping[str, Any]], missing: Sequence[str]) -> str:
    """The report, as HTML."""
    text = _HEAD
    for cells in (cells for result in results for cells in result["targets"]):
        row = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        text += f'<tr class="{cells[-1]}">{row}</tr>\n'
    text += "</table>\n" + "".join(map(section, results))
    return text + "".join(f"<h2>{name}</h2>\n<p>It failed.</p>\n" for name in missing)


def section(result: Mapping[str, Any]) -> str:
    """The figures of one benchmark, as HTML."""
    name = result["benchmark"]
    when = f"{result['machine']}, {result['date']}, load before {result['load']:g}"
    text = f"<h2>{name}</h2>\n<p>{html.escape(result['about'])} ({when})</p>\n"
    path = os.path.join(DIRECTORY, name + ".png")
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        data = base64.b64encode(file.read()).decode()
        text += f'<img alt="{name}" src="data:image/png;base64,{data}">\n'
    failed = "".join(f"Failed: {line}\n" for line in result["failures"])
    return text + f"<pre>{html.escape(result['text'] + failed)}</pre>\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = ", ".join(PROGRAMS)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {names}")
    parser.add_argument("--quick", action="store_true", help="measure very little")
    chosen = parser.parse_args()
    # An exception, so that the benchmark is stopped.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if unknown := set(chosen.names) - set(PROGRAMS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    wanted = chosen.names or list(PROGRAMS)
    os.makedirs(DIRECTORY, exist_ok=True)
    try:
        failed = run_all(wanted, chosen.quick)
    except KeyboardInterrupt:
        return 130
    results = read()
    present = {result["benchmark"] for result in results}
    missing = [name for name in wanted if name not in present]
    path = os.path.join(DIRECTORY, "report.html")
    with open(path, "w") as file:
        file.write(page(results, missing))
    print(f"report: {path}")
    return 1 if failed or missing else 0


if __name__ == "__main__":
    sys.exit(main())
