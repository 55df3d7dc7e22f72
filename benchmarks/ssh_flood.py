# SPDX-License-Identifier: GPL-2.0-or-later

"""The time of a login to lp-serve-ssh while another client attacks it.

The attacker is at 127.0.0.1 and the user at 127.0.0.2. One attack is 1,000 connections
on which nobody logs in; each that is dropped is opened again, a hundred a second at
most. The other is failing logins as the shared account, without penalties, to a server
with one file of keys and to one with 1,000. Then the index of keys is timed alone.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

from runner import Result, in_rounds, options, ratios, run
from sshstage import SshServer, connect, make_key
from stage import Stage, wait_until

from lpserve.ssh.keydirectory import KeyDirectory

#: The number of connections on which nobody logs in, and of files of keys.
MANY = 1000
#: Logins of a side in each round.
_ROW = 5
QUIET, HALF_OPEN = "quiet", f"{MANY} connections that do not log in"
ONE_FILE = "failing logins, 1 file"
MANY_FILES = f"failing logins, {MANY} files"


def keep_open(port: int) -> None:
    """Keep `MANY` connections open until killed; print a line when all are open."""
    poll = select.poll()
    made: dict[int, socket.socket] = {}

    def connect() -> None:
        each = socket.create_connection(("127.0.0.1", port))
        made[each.fileno()] = each
        poll.register(each, select.POLLIN)

    for _ in range(MANY):
        connect()
    print(flush=True)
    while True:
        for descriptor, _ in poll.poll():
            with contextlib.suppress(ConnectionError):
                if made[descriptor].recv(65536):
                    continue
            poll.unregister(descriptor)
            made.pop(descriptor).close()
            time.sleep(0.01)
            connect()


def logins(server: SshServer, attacker: list[str]) -> list[float]:
    """Milliseconds of `_ROW` logins while *attacker* runs, if it is a command.

    An attacker prints a line when it has begun.
    """
    ssh = ["-b", "127.0.0.2", *server.ssh()]
    process = None
    try:
        if attacker:
            process = subprocess.Popen(
                attacker,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            process.stdout.readline()
        return [connect(ssh)[0] for _ in range(_ROW)]
    finally:
        if process is not None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        wait_until(lambda: quiet(server), "the server has no connections")


def quiet(server: SshServer) -> bool:
    """Whether *server* has no connection (proc_net(5); 01 is ESTABLISHED)."""
    port = f":{server.port:04X}"
    with open("/proc/net/tcp") as file:
        found = [line.split()[1:4] for line in file]
    return not any(a.endswith(port) and state == "01" for a, _, state in found)


def failing(server: SshServer) -> list[str]:
    """The attacker that fails to log in."""
    wrong = make_key(server.directory, "wrong")
    words = shlex.join(["ssh", *server.ssh(wrong, "bzr"), "id"])
    return ["sh", "-c", f"echo; while :; do {words}; done"]


def add_keys(directory: str, key: str) -> None:
    """Copy the public key of *key* to `MANY` files in *directory*."""
    for number in range(MANY):
        shutil.copy(key + ".pub", os.path.join(directory, f"user{number}"))


def measure(stage: Stage, chosen: argparse.Namespace) -> Result:
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        service = enter(stage.service("service"))
        unlimited = stage.service(
            "unlimited", runtime_dir=service.directory, per_source_penalties="no"
        )
        plain = enter(SshServer(stage, "plain", service.environ))
        one = enter(SshServer(stage, "one", unlimited.environ))
        many = enter(SshServer(stage, "many", unlimited.environ))
        keys = os.path.join(many.directory, "keys")
        add_keys(keys, make_key(many.directory, "other"))
        program = [sys.executable, os.path.abspath(__file__)]
        sides = {
            QUIET: functools.partial(logins, plain, []),
            HALF_OPEN: functools.partial(
                logins, plain, [*program, "--attack", str(plain.port)]
            ),
            ONE_FILE: functools.partial(logins, one, failing(one)),
            MANY_FILES: functools.partial(logins, many, failing(many)),
        }
        rows = in_rounds(sides, chosen.repeat, warm=1)
    times = {name: list(itertools.chain(*found)) for name, found in rows.items()}
    result = Result()
    result.figures("ms until logged in", times, QUIET)
    result.figures(f"us of the index, {MANY} files", index_times(stage))
    more = ratios(times[HALF_OPEN], times[QUIET])
    result.target(f"a login beside {HALF_OPEN}", more, 2, at_most=True)
    added = [a - b for a, b in zip(times[MANY_FILES], times[ONE_FILE])]
    figure = f"what {MANY} files add to a login while others fail"
    result.target(figure, added, 1, "ms", at_most=True)
    return result


def index_times(stage: Stage) -> dict[str, list[float]]:
    """Microseconds of each use of the index of `MANY` files."""
    path = os.path.join(stage.path, "index")
    os.mkdir(path, 0o700)
    add_keys(path, make_key(stage.path, "user"))
    time.sleep(2.1)  # a file that has just changed is read again each time
    keys = KeyDirectory(path, "bzr")
    found = {"reading all files, once": timed(1, lambda: list(keys.renew()))}
    blob = next(iter(keys._users))
    found["looking a key up"] = timed(200, lambda: keys.known("user7", blob))
    endless = itertools.chain.from_iterable(keys.renew() for _ in itertools.count())
    found["a step of looking at all files"] = timed(800, lambda: next(endless))
    return found


def timed(count: int, work: Callable[[], object]) -> list[float]:
    """Microseconds of each of *count* calls of *work*."""
    moments = [time.perf_counter()]
    for _ in range(count):
        work()
        moments.append(time.perf_counter())
    return [(b - a) * 1e6 for a, b in itertools.pairwise(moments)]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--attack"]:
        keep_open(int(sys.argv[2]))
    parser = options(__doc__, repeat=(10, f"rounds, of {_ROW} logins each way"))
    sys.exit(run(parser, measure))
