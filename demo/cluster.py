# SPDX-License-Identifier: GPL-2.0-or-later

"""Runs three hosts behind HAProxy, to look at: 'make cluster'.

What may be typed drains, upgrades, kills and restarts hosts. Everything runs on
loopback, as the user who runs this, and in a temporary directory that is removed at
the end.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile

from .hosts import Cluster
from .place import DemoError

REVISIONS = 300
BRANCH = "trunk"
_HELP = """\
Type here, with a host's name, one, two or three:

  drain HOST     no new connections there; 'resume HOST' takes it back
  upgrade HOST   new code serves, and nobody notices
  kill HOST      SIGKILL for all its processes; 'start HOST' starts them again
  status         what HAProxy says of the hosts, and how many processes they have

Ctrl-C ends everything."""


def say(text: str = "") -> None:
    """Print a line now."""
    print(text, flush=True)


def status(cluster: Cluster) -> None:
    """Print a line for each host."""
    for name, state in cluster.states().items():
        count = len(cluster.hosts[name].processes())
        say(f"  {name:6} {cluster.hosts[name].address}  {state}, {count} processes")


def carry_out(cluster: Cluster, words: list[str]) -> None:
    """Do what was typed.

    :raises DemoError: if it fails, or is no command.
    """
    verb, *names = words
    if words == ["status"]:
        status(cluster)
        return
    if len(names) != 1 or names[0] not in cluster.hosts:
        raise DemoError("not understood")
    (name,) = names
    host = cluster.hosts[name]
    if verb not in ("drain", "resume", "upgrade", "kill", "start"):
        raise DemoError("not understood")
    runs = bool(host.processes())
    if runs == (verb == "start"):
        raise DemoError(f"host {name} {'runs' if runs else 'does not run'}")
    if verb == "upgrade":
        host.upgrade()
        say(f"  {name} is upgraded")
        return
    if verb == "kill":
        _, seconds = cluster.lose(name)
    elif verb == "start":
        seconds = cluster.bring_back(name)
    elif verb == "drain":
        seconds = cluster.drain(name)
    else:
        seconds = cluster.resume(name)
    say(f"  HAProxy has noticed after {seconds:.1f} s: {cluster.states()[name]}")


def perform(cluster: Cluster) -> None:
    """Start all, and do what is typed until Ctrl-C."""
    cluster.client.make_branch(REVISIONS, "source")
    cluster.client.copy_branch("..", "tree", BRANCH)
    cluster.start()
    program = os.path.join(os.path.dirname(sys.executable), "brz")
    say(f"HAProxy at {cluster.address}, in front of three hosts with one tree:")
    say()
    status(cluster)
    say()
    say("In another terminal, anywhere, as often as you like:")
    say()
    setting = f"BRZ_SSH={shlex.quote(cluster.client.env['BRZ_SSH'])}"
    say(f"  {setting} {shlex.quote(program)} branch {cluster.url}/{BRANCH}")
    say()
    say(_HELP)
    for line in sys.stdin:
        if words := line.split():
            try:
                carry_out(cluster, words)
            except (DemoError, OSError, subprocess.SubprocessError) as error:
                say(f"  {error}")
    # Nobody types: until a signal comes.
    signal.pause()


def main() -> int:
    """Run it; the exit status."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    directory = tempfile.mkdtemp(prefix="lpserve-cluster-")
    cluster = Cluster(directory)
    try:
        perform(cluster)
    except KeyboardInterrupt:
        say()
    except (DemoError, ImportError, subprocess.SubprocessError, OSError) as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        cluster.stop()
        shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
