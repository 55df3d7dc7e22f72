# SPDX-License-Identifier: GPL-2.0-or-later

"""Run all benchmarks, one after the other, and write one report.

In build/bench/ each benchmark leaves its figures as JSON; report.html has all of them
in it, with the connection-time graph, and comes alone. What was measured before stays
in it. The status is 1 if one of them failed, not if a figure is missed.
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
#: In this order, with the words for a quick look. compare.py is for two revisions.
PROGRAMS = {
    "first_byte": ["--repeat=5"],
    "cpu": ["--repeat=2", "--per-round=5"],
    "memory": ["--repeat=10", "--connections=50"],
    "concurrency": ["--repeat=1", "--at-most=10", "--connections=200"],
    "relay": ["--repeat=1", "--mib=128"],
    "sandbox": ["--repeat=1", "--per-round=5"],
    "steps": ["--repeat=5"],
    "imports": [],
    "connection_time": ["--repeat=3"],
    "ssh_flood": ["--repeat=2"],
    "warm": ["--repeat=2", "--revisions=1500", "--files=200", "--rounds=10"],
}

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>lpserve: figures</title>
<style>
body {{ font: 15px/1.5 sans-serif; max-width: 68em; margin: 2em auto; padding: 0 1em }}
table {{ border-collapse: collapse }}
th, td {{ border-bottom: 1px solid #ccc; padding: .25em .8em; text-align: left }}
.reached {{ color: #1a6b2a }}
.MISSED {{ color: #8b1a1a }}
pre {{ font: 12px/1.4 monospace; overflow-x: auto }}
img {{ max-width: 100% }}
</style>
<h1>lpserve: figures</h1>
<p>{machine}</p>
<table>
<tr><th>figure</th><th>to reach</th><th>measured</th><th></th></tr>
{targets}
</table>
{sections}
</html>
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
            os.unlink(place + ".json")  # that of another run is none of this
        began = time.monotonic()
        more = PROGRAMS[name] if quick else []
        with subprocess.Popen([sys.executable, *words, *more]) as program:
            try:
                failed += program.wait() != 0
            except BaseException:
                # A Ctrl-C it has heard itself, and it stops what it has started.
                program.terminate()
                program.wait()
                raise
        print(f"\n-- {name}: {time.monotonic() - began:.0f} s --\n", flush=True)
    return failed


def read() -> list[dict[str, Any]]:
    """What they have written, as far as they have."""
    found = []
    for name in PROGRAMS:
        path = os.path.join(DIRECTORY, name + ".json")
        with contextlib.suppress(FileNotFoundError), open(path) as file:
            found.append(json.load(file))
    return found


def page(results: Sequence[Mapping[str, Any]], missing: Sequence[str]) -> str:
    """The report, as HTML."""
    lines = []
    for cells in (cells for result in results for cells in result["targets"]):
        text = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        lines.append(f'<tr class="{cells[-1]}">{text}</tr>')
    sections = [section(result) for result in results]
    sections += [f"<h2>{name}</h2>\n<p>It failed.</p>" for name in missing]
    return _PAGE.format(
        machine=html.escape(results[0]["machine"]) if results else "",
        targets="\n".join(lines),
        sections="\n".join(sections),
    )


def section(result: Mapping[str, Any]) -> str:
    """What one benchmark has found."""
    name = result["benchmark"]
    when = f"({result['date']}, load before it {result['load']:g})"
    text = f"<h2>{name}</h2>\n<p>{html.escape(result['about'])} {when}</p>\n"
    path = os.path.join(DIRECTORY, name + ".png")
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        data = base64.b64encode(file.read()).decode()
        text += f'<img alt="{name}" src="data:image/png;base64,{data}">\n'
    text += f"<pre>{html.escape(result['text'])}</pre>\n"
    for line in result["failures"]:
        text += f'<p class="MISSED">Failed: {html.escape(line)}</p>\n'
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = ", ".join(PROGRAMS)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {names}")
    parser.add_argument("--quick", action="store_true", help="measure very little")
    chosen = parser.parse_args()
    # So that the one that runs is stopped.
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
