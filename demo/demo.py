#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later

"""Compares connections with and without the fork service: 'make demo'.

It runs ``brz`` commands over bzr+ssh against two servers ('brz lp-serve-ssh') in turn:
one starts a Breezy process for every connection, the other has the fork service
serve it. Everything runs on loopback, as the user who runs this, and in a temporary
directory that is removed at the end.
"""

from __future__ import annotations

import signal
import statistics
import subprocess
import sys
import tempfile
import time

from place import DemoError, brz
from stage import HELLO, REVISIONS, ROUNDS, Demo


def say(text: str = "") -> None:
    """Print a line now."""
    print(text, flush=True)


def table(times: dict[str, dict[str, list[float]]]) -> None:
    """Print the medians, in milliseconds."""
    middle = {
        name: {side: statistics.median(each) * 1000 for side, each in sides.items()}
        for name, sides in times.items()
    }
    login = middle.pop("ssh alone")["both"]
    alone = middle.pop("brz alone")["both"]
    say(f"  {'':30}{'before':>10}{'after':>10}")
    say(f"  {'-' * 64}")
    say(f"  {'an ssh login that is refused':30}{login:>7.0f} ms{login:>7.0f} ms")
    for name, sides in middle.items():
        row(name, sides["before"], sides["after"])
        if name == HELLO:
            rest = [max(0.0, sides[each] - login) for each in ("before", "after")]
            row("  without the login", *rest)
    say()
    say(f"  Medians of {ROUNDS} rounds, both sides in turn. In every line there is an")
    say("  ssh login, and in those with 'brz' the client's own start as well, which no")
    say(f"  server can shorten ('brz revno' of a local branch: {alone:.0f} ms).")


def row(name: str, before: float, after: float) -> None:
    """Print a row of the table."""
    # On a busy machine the difference is unreliable.
    ratio = f"{before / after:.1f} times" if min(before, after) > 0 else "?"
    say(f"  {name:30}{before:>7.0f} ms{after:>7.0f} ms{ratio:>14}")


def show(demo: Demo, words: str) -> None:
    """Print a ``brz`` command and run it."""
    say(f"  $ {words}")
    _, text = demo.run(brz(*words.split()[1:]), "after")
    for line in text.splitlines()[:6]:
        say(f"    {line}")


def perform(demo: Demo) -> None:
    """Run all parts of the demonstration."""
    say("lpserve: bzr+ssh connections that start at once")
    say()
    say("Whenever 'brz' talks to a server over ssh, that server starts Breezy anew,")
    say("often for longer than the work itself takes. lpserve keeps one process that")
    say("has it loaded, and forks a worker from it for each connection.")
    say()
    start = time.monotonic()
    demo.make_branches()
    seconds = time.monotonic() - start
    say(
        f"1. A branch of {REVISIONS} revisions, for each side a copy ({seconds:.1f} s)."
    )
    start = time.monotonic()
    demo.start_servers()
    seconds = time.monotonic() - start
    say(f"2. Servers, which took {seconds:.1f} s until they listened:")
    say("     'brz lp-serve --fork-server', the service,")
    say(f"     'brz lp-serve-ssh' with it,    {demo.urls['after']}/")
    say(f"     'brz lp-serve-ssh' without it, {demo.urls['before']}/")
    say()
    say("A user's session through the fork service:")
    url = demo.urls["after"]
    show(demo, f"brz branch {url}/trunk mine")
    demo.commit(1)
    demo.run(brz("pull", "-q", "-d", "source", demo.path("source")), "after")
    show(demo, f"brz push -d source {url}/trunk")
    show(demo, "brz pull -d mine")
    show(demo, f"brz revno {url}/trunk")
    # Both sides have to start with the same revisions.
    trunk = f"{demo.urls['before']}/trunk"
    demo.run(brz("branch", "-q", trunk, "mine"), "before")
    say()
    say("The same commands through both:")
    say()
    times = demo.measure()
    table(times)
    say()
    same = demo.compare()
    say(f"  Both servers have the same now ({same}),")
    say("  and 'brz check' finds no fault in it.")


def main() -> int:
    """Run the demonstration; the exit status."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    demo = Demo(tempfile.mkdtemp(prefix="lpserve-demo-"))
    try:
        perform(demo)
    except KeyboardInterrupt:
        say()
        print("demo: interrupted", file=sys.stderr)
        return 130
    except (DemoError, ImportError, subprocess.SubprocessError, OSError) as error:
        say()
        print(f"demo: {error}", file=sys.stderr)
        return 1
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        demo.clear()
    return 0


if __name__ == "__main__":
    sys.exit(main())
