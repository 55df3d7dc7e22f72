# SPDX-License-Identifier: GPL-2.0-or-later

"""Run all benchmarks, one after the other, and write one report.

In the directory of the report each benchmark leaves its figures as JSON and its
drawing as PNG and SVG; report.html has all of them in it, and comes alone. The
status is 1 if one of them failed, not if a figure is missed.
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

from figures import wanted
from stage import PLUGIN

#: In this order, with the words for a quick look.
PROGRAMS = {
    "handshake": ["--repeat=5"],
    "client": ["--repeat=5"],
    "cpu": ["--repeat=2", "--per-round=5"],
    "memory": ["--repeat=10", "--connections=20,50"],
    "throughput": ["--connections=200"],
    "relay": ["--repeat=1", "--mib=128"],
    "fork_size": ["--repeat=5"],
    "concurrency": ["--repeat=1", "--at-most=10"],
    "imports": [],
    "exec_time": ["--repeat=10"],
    "connection_time": ["--repeat=3"],
    "ssh_flood": ["--repeat=2"],
    "sandbox": ["--repeat=1", "--per-round=5"],
    "pull": ["--repeat=1"],
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
td.reached {{ color: #1a6b2a }}
td.missed {{ color: #8b1a1a; font-weight: bold }}
pre {{ font: 12px/1.4 monospace; overflow-x: auto }}
img {{ max-width: 100% }}
</style>
<h1>lpserve: figures</h1>
<p>{machine}</p>
<table>
<tr><th>figure</th><th>to reach</th><th>measured</th><th>reached?</th></tr>
{targets}
</table>
{sections}
</html>
"""


def run_all(names: Sequence[str], directory: str, more: Mapping[str, list[str]]) -> int:
    """Run the programs *names*; how many of them failed.

    :param more: words for them.
    """
    here = os.path.dirname(os.path.abspath(__file__))
    failed = 0
    for name in names:
        place = os.path.join(directory, name)
        words = [os.path.join(here, name + ".py"), f"--json={place}.json"]
        if name == "connection_time":
            words += [f"--{kind}={place}.{kind}" for kind in ("csv", "png", "svg")]
        with contextlib.suppress(FileNotFoundError):
            os.unlink(place + ".json")  # that of another run is none of this
        began = time.monotonic()
        with subprocess.Popen([sys.executable, *words, *more[name]]) as program:
            try:
                status = program.wait()
            except BaseException:
                # A Ctrl-C it has heard itself, and it stops what it has started.
                program.terminate()
                program.wait()
                raise
        failed += status != 0
        print(f"\n-- {name}: {time.monotonic() - began:.0f} s --\n", flush=True)
    return failed


def read(names: Sequence[str], directory: str) -> list[dict[str, Any]]:
    """What they have written, as far as they have."""
    found = []
    for name in names:
        path = os.path.join(directory, name + ".json")
        with contextlib.suppress(FileNotFoundError), open(path) as file:
            found.append(json.load(file))
    return found


def draw(results: Sequence[Mapping[str, Any]], directory: str) -> None:
    """Draw what there is a chart of, if there is what draws."""
    try:
        import charts
    except ImportError as error:
        print(f"not drawn, for which matplotlib is needed: {error}")
        return
    for result in results:
        charts.draw(result, os.path.join(directory, result["benchmark"]))


def page(
    results: Sequence[Mapping[str, Any]], missing: Sequence[str], directory: str
) -> str:
    """The report, as HTML."""
    lines = []
    for each in (each for result in results for each in result["targets"]):
        verdict = "reached" if each["reached"] else "missed"
        cells = (each["figure"], wanted(each), f"{each['measured']:g} {each['unit']}")
        lines.append(
            "<tr>"
            + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
            + f'<td class="{verdict}">{"yes" if each["reached"] else "no"}</td></tr>'
        )
    sections = [section(result, directory) for result in results]
    sections += [f"<h2>{name}</h2>\n<p>It failed.</p>" for name in missing]
    return _PAGE.format(
        machine=html.escape(described(results)) if results else "",
        targets="\n".join(lines),
        sections="\n".join(sections),
    )


def described(results: Sequence[Mapping[str, Any]]) -> str:
    """The machine, and how much else it did."""
    found = results[0]["machine"]
    loads = [result["machine"]["load"] for result in results]
    releases = ", ".join(f"{k} {v}" for k, v in found["versions"].items())
    return (
        f"{found['date']}: {found['cores']} cores, {found['processor']}; "
        f"Linux {found['kernel']}; {releases}; runtime directories on "
        f"{found['runtime_filesystem']}; load before each benchmark "
        f"{min(loads):g} to {max(loads):g}"
    )


def section(result: Mapping[str, Any], directory: str) -> str:
    """What one benchmark has found."""
    name = result["benchmark"]
    machine = result["machine"]
    text = f"<h2>{name}</h2>\n<p>{html.escape(result['about'])} "
    text += f"({machine['date']}, load before it {machine['load']:g})</p>\n"
    path = os.path.join(directory, name + ".png")
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        data = base64.b64encode(file.read()).decode()
        text += f'<img alt="{name}" src="data:image/png;base64,{data}">\n'
    text += f"<pre>{html.escape(result['text'])}</pre>\n"
    for line in result["failures"]:
        text += f'<p class="missed">Failed: {html.escape(line)}</p>\n'
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(PROGRAMS)}"
    )
    parser.add_argument(
        "--directory",
        metavar="DIR",
        default=os.path.join(PLUGIN, "build", "bench"),
        help="where to write it (default: build/bench)",
    )
    parser.add_argument("--quick", action="store_true", help="measure very little")
    parser.add_argument(
        "--connections",
        metavar="N",
        help="connections of the throughput benchmark",
    )
    parser.add_argument(
        "--draw-only",
        action="store_true",
        help="measure nothing, report what is in the directory",
    )
    chosen = parser.parse_args()
    # So that the one that runs is stopped.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    unknown = set(chosen.names) - set(PROGRAMS)
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    names = chosen.names or list(PROGRAMS)
    more = {name: PROGRAMS[name] if chosen.quick else [] for name in PROGRAMS}
    if chosen.connections:
        more["throughput"] = [f"--connections={chosen.connections}"]
    os.makedirs(chosen.directory, exist_ok=True)
    failed = 0
    if not chosen.draw_only:
        try:
            failed = run_all(names, chosen.directory, more)
        except KeyboardInterrupt:
            return 130
    # What was measured before is in it, too.
    results = read(list(PROGRAMS), chosen.directory)
    draw(results, chosen.directory)
    present = {result["benchmark"] for result in results}
    missing = [name for name in names if name not in present]
    path = os.path.join(chosen.directory, "report.html")
    with open(path, "w") as file:
        file.write(page(results, missing, chosen.directory))
    print(f"report: {path}")
    return 1 if failed or missing else 0


if __name__ == "__main__":
    sys.exit(main())
