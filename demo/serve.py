#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later

"""Runs a server for experiments: 'make serve' and 'make stop'.

It starts the fork service and an SSH server on loopback, which go on running, with a
branch and a key in a directory that stays.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time

from place import DEADLINE, USER, DemoError, Place

REVISIONS = 300


def serve(place: Place, port: int) -> None:
    """Start the servers that are not running, and print how to use them.

    :raises DemoError: if it cannot be started.
    """
    if not os.path.isdir(place.path("keys")):
        os.makedirs(place.path("home"), exist_ok=True)
        place.make_client()
    if not os.path.isdir(place.path("branches", "trunk")):
        place.make_branch(REVISIONS, "source")
        place.copy_branch("branches", "trunk")
    if not pids(place):
        servers = []
        try:
            servers.append(place.start_service(place.path("branches")))
            server, port = place.start_ssh_server("ssh-server", port)
            servers.append(server)
        except DemoError:
            for server in servers:
                server.terminate()
                server.wait(DEADLINE)
            raise
        with open(place.path("running"), "w") as file:
            file.write(" ".join(map(str, [*(each.pid for each in servers), port])))
    with open(place.path("running")) as file:
        port = int(file.read().split()[-1])
    names = ["BRZ_SSH"] if place.ssh else ["BRZ_SSH", "HOME", "BRZ_HOME"]
    settings = [f"{name}={shlex.quote(place.env[name])}" for name in names]
    brz = os.path.join(os.path.dirname(sys.executable), "brz")
    print(f"Serving {place.path('branches')}; the logs are beside it. Try, anywhere:\n")
    url = f"bzr+ssh://{USER}@127.0.0.1:{port}/trunk"
    print(" ", *settings, shlex.quote(brz), "branch", url)
    print("\nTo let your own key in, put its public half into a file with your name in")
    print(f"{place.path('keys')}. 'make stop' ends it.")


def pids(place: Place) -> list[int]:
    """The pids of the servers; if one is not running, the others are stopped."""
    try:
        with open(place.path("running")) as file:
            found = [int(each) for each in file.read().split()[:-1]]
    except FileNotFoundError:
        return []
    running = [pid for pid in found if _is_server(pid)]
    if len(running) < len(found):
        _end(running)
        return []
    return running


def _is_server(pid: int) -> bool:
    """Whether *pid* is one of our servers, and was not reused."""
    try:
        with open(f"/proc/{pid}/comm") as comm:
            return comm.read().startswith("lp-serve")
    except OSError:
        return False


def _end(running: list[int]) -> None:
    # In the reverse order of their start.
    for pid in reversed(running):
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + DEADLINE
        while _is_server(pid) and time.monotonic() < deadline:
            time.sleep(0.02)


def main(words: list[str]) -> int:
    """Run the command; the exit status.

    :param words: ``serve DIRECTORY PORT`` or ``stop DIRECTORY``.
    """
    verb, directory, *port = words
    place = Place(os.path.abspath(directory))
    try:
        if verb == "serve":
            os.makedirs(place.directory, exist_ok=True)
            serve(place, int(port[0]))
        elif os.path.exists(place.path("running")):
            _end(pids(place))
            os.unlink(place.path("running"))
    except (DemoError, ImportError, subprocess.SubprocessError, OSError) as error:
        print(f"serve: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
