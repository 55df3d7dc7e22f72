# SPDX-License-Identifier: GPL-2.0-or-later

"""Drawings of figures. Needs matplotlib, which nothing else here does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("agg")

from figures import median
from matplotlib import pyplot
from sshstage import NOTHING, PROCESS, SERVICE

#: Light and dark, so that they differ in grey too.
_HANDSHAKE, _ANSWER, _WAIT = "#5b9bd5", "#8b1a1a", "#f6dcd2"
#: Of all drawings.
STYLE = {
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    # Text that can be read and searched, and takes less room than its outlines.
    "svg.fonttype": "none",
    # The same drawing from the same figures, byte for byte.
    "svg.hashsalt": "lpserve",
}


def draw(rows: Sequence[Any], png: str, svg: str) -> None:
    """Draw the connection-time graph of `connection_time.Row`s."""
    servers = list(dict.fromkeys(row.server for row in rows))
    with pyplot.rc_context(STYLE):
        figure, panels = pyplot.subplots(
            1, len(servers), sharey=True, figsize=(10, 5), layout="constrained"
        )
        for panel, server in zip(panels, servers):
            _panel(panel, server, [row for row in rows if row.server == server])
        panels[0].set_ylabel("time since the start of ssh [ms]")
        # Room for what is written above the lines.
        panels[0].set_ylim(0, max(row.answer for row in rows) * 1000 * 1.26)
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
        figure.savefig(png, dpi=120, metadata={"Software": None})
        figure.savefig(svg, metadata={"Date": None})
        pyplot.close(figure)


def _panel(panel: Any, server: str, rows: Sequence[Any]) -> None:
    """One server: on the left without the fork service, on the right with it."""
    kinds = {
        kind: [row for row in rows if row.served_by == kind]
        for kind in (PROCESS, SERVICE, NOTHING)
    }
    halves = [kinds[PROCESS], kinds[SERVICE]]
    count = max(map(len, halves))
    gap = 1 + count // 8
    ticks: dict[int, str] = {}
    for start, half, words in zip((0, count + gap), halves, ("without", "with")):
        numbers = [start + row.connection for row in half]
        handshake = [row.handshake * 1000 for row in half]
        answer = [row.answer * 1000 for row in half]
        # One entry of the legend for both halves.
        hide = "_" if start else ""
        panel.plot(
            numbers,
            answer,
            color=_ANSWER,
            lw=1.5,
            marker="o",
            ms=3,
            label=hide + "the smart server has answered",
        )
        panel.plot(
            numbers,
            handshake,
            color=_HANDSHAKE,
            lw=2.2,
            label=hide + "the ssh handshake is done",
        )
        panel.fill_between(
            numbers,
            handshake,
            answer,
            color=_WAIT,
            lw=0,
            label=hide + "the client waits for the smart server",
        )
        apart = f"{_apart(half)} ms apart (median)"
        if start and kinds[NOTHING]:
            apart += f",\n{_apart(kinds[NOTHING])} ms of that is sshd's own"
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


def _apart(rows: Sequence[Any]) -> str:
    """The median of what is between handshake and answer, in milliseconds."""
    found = median([row.answer - row.handshake for row in rows]) * 1000
    return f"{found:.0f}" if found >= 10 else f"{found:.1f}"
