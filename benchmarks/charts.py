# SPDX-License-Identifier: GPL-2.0-or-later

"""Drawings of what the benchmarks have written as JSON. Needs matplotlib.

Each of `CHARTS` takes what one of them wrote, and returns a figure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("agg")

from matplotlib import pyplot
from matplotlib.figure import Figure
from plots import STYLE

Result = Mapping[str, Any]
#: Ours are blue, what they are compared with is red and grey.
_OURS = ("#08306b", "#2171b5", "#4292c6", "#9ecae1", "#6baed6", "#c6dbef", "#74c476")
_BRZ, _OTHERS = "#8b1a1a", ("#525252", "#969696", "#bdbdbd", "#d9d9d9")
_PARTS = ("#9ecae1", "#2171b5", "#08306b", "#fdae6b", "#e6550d")


def colours(names: Sequence[str], words: int = 9) -> dict[str, str]:
    """A colour for each side.

    :param words: names that do not differ in so many get the same.
    """
    ours, others = list(_OURS), list(_OTHERS)
    kinds: dict[str, str] = {}
    found = {}
    for name in names:
        kind = ", ".join(name.split(", ")[:words])
        if kind not in kinds:
            foreign = kind.startswith(("git", "hg", "chg", "sh ", "no client"))
            pool = others if foreign else ours
            kinds[kind] = pool.pop(0) if len(pool) > 1 else pool[0]
            if kind.startswith("brz"):
                kinds[kind] = _BRZ
        found[name] = kinds[kind]
    return found


def distributions(result: Result) -> Figure:
    """What part of the connections has taken how long, of each side."""
    figure, axes = pyplot.subplots(figsize=(9, 4.5), layout="constrained")
    times = result["times"]
    for name, colour in colours(list(times)).items():
        values = sorted(each * 1000 for each in times[name])
        parts = [100 * n / len(values) for n in range(len(values) + 1)]
        values.insert(0, values[0])
        style = "--" if "fifo" in name else "-"
        axes.step(
            values, parts, where="post", color=colour, lw=1.8, ls=style, label=name
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("ms to the first byte (logarithmic)")
    axes.set_ylabel("% of the connections")
    axes.grid(color="0.9", lw=0.8)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _bars(
    rows: Sequence[tuple[str, float]], label: str, wanted: float | None = None
) -> Figure:
    """Horizontal bars; a line where they are to end, or to get to."""
    height = 1.2 + 0.36 * len(rows)
    figure, axes = pyplot.subplots(figsize=(9, height), layout="constrained")
    names = [name for name, _ in rows]
    found = colours(names, 2)
    places = range(len(rows))
    values = [value for _, value in rows]
    bars = axes.barh(places, values, color=[found[name] for name in names])
    axes.bar_label(bars, fmt="%.3g", padding=3)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.margins(x=0.08)
    if wanted is not None:
        axes.axvline(wanted, color="0.2", lw=1, ls=(0, (4, 3)), label="to reach")
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def cpu(result: Result) -> Figure:
    """CPU time by side, in parts."""
    parts = result["parts"]
    kinds = list(dict.fromkeys(kind for each in parts.values() for kind in each))
    figure, axes = pyplot.subplots(
        figsize=(9, 1.4 + 0.36 * len(parts)), layout="constrained"
    )
    places = range(len(parts))
    left = [0.0] * len(parts)
    for kind, colour in zip(kinds, _PARTS):
        widths = [each.get(kind, 0.0) * 1000 for each in parts.values()]
        axes.barh(places, widths, left=left, color=colour, label=kind)
        left = [a + b for a, b in zip(left, widths)]
    for place, end in zip(places, left):
        axes.annotate(
            f"{end:.3g}", (end, place), (4, 0), textcoords="offset points", va="center"
        )
    axes.axvline(5, color="0.2", lw=1, ls=(0, (4, 3)), label="to reach")
    axes.set_yticks(places, list(parts))
    axes.invert_yaxis()
    axes.set_xlabel("CPU ms per connection (medians)")
    axes.margins(x=0.08)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def memory(result: Result) -> Figure:
    """PSS of an idle connection."""
    rows = [
        (f"{name}, {each['count']} open", each["pss"])
        for name, found in result["memory"].items()
        for each in found
    ]
    return _bars(rows, "MiB of PSS for each idle connection", 3)


def throughput(result: Result) -> Figure:
    """Connections per second."""
    rows = [(name, each["per_second"]) for name, each in result["ways"].items()]
    label = f"connections per second, {result['clients']} clients in a closed loop"
    return _bars(rows, label, 250)


def relay(result: Result) -> Figure:
    """Shares of what goes through without a client."""
    rows = [
        (f"{each['way']}, {each['direction']}, {each['stdio']}", each["share"] * 100)
        for each in result["figures"]
    ]
    return _bars(rows, "% of the bytes per second without a client", 80)


def concurrency(result: Result) -> Figure:
    """How long many at once wait."""
    figure, axes = pyplot.subplots(figsize=(9, 4.5), layout="constrained")
    ways: dict[str, list[Any]] = {}
    for each in result["figures"]:
        ways.setdefault(each["way"], []).append(each)
    for name, colour in colours(list(ways)).items():
        counts = [each["at_once"] for each in ways[name]]
        medians = [each["median"] * 1000 for each in ways[name]]
        style = "--" if "fifo" in name else "-"
        axes.plot(counts, medians, marker="o", color=colour, ls=style, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.set_xlabel("connections at once")
    axes.set_ylabel("ms to the first byte (median)")
    axes.grid(color="0.9", lw=0.8)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


#: By the name of the benchmark.
CHARTS: dict[str, Callable[[Result], Figure]] = {
    "handshake": distributions,
    "client": distributions,
    "cpu": cpu,
    "memory": memory,
    "throughput": throughput,
    "relay": relay,
    "fork_size": distributions,
    "concurrency": concurrency,
    "exec_time": distributions,
}


def draw(result: Result, path: str) -> bool:
    """Draw *result* as *path*.png and *path*.svg; whether there is a chart of it."""
    chart = CHARTS.get(result["benchmark"])
    if chart is None:
        return False
    with pyplot.rc_context(STYLE):
        figure = chart(result)
        figure.savefig(path + ".png", dpi=110, metadata={"Software": None})
        figure.savefig(path + ".svg", metadata={"Date": None})
        pyplot.close(figure)
    return True
