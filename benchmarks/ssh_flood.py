# SPDX-License-Identifier: GPL-2.0-or-later

"""How long a login to lp-serve-ssh takes while somebody else attacks it.

The attacker is at 127.0.0.1 and who logs in at 127.0.0.2. One attack are 1,000
connections on which nobody logs in; those that are dropped are opened anew, a
hundred a second. The other one are logins that fail, one after the other, as
the shared account, with no penalties, at a server with one file of keys and at one with
1,000. They are taken in turns, and with no attack at all. Then what the index of
keys takes by itself.
"""

from __future__ import annotations

import argparse
import contextlib
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
from collections.abc import Callable, Iterator

from runner import Result, arguments, in_turn, ratios, run
from sshstage import SshServer, connect, make_key
from stage import Stage, wait_until

from lpserve.ssh.keydirectory import KeyDirectory

#: Connections on which nobody logs in, and files of keys.
MANY = 1000
#: Logins in a row, of each side in each turn.
_ROW = 5
QUIET, HALF_OPEN = "quiet", f"{MANY} connections that do not log in"
ONE_FILE = "failing logins, 1 file"
MANY_FILES = f"failing logins, {MANY} files"


def keep_open(port: int) -> None:
    """Keep `MANY` connections open until killed; say when they have been made."""
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


@contextlib.contextmanager
def attack(words: list[str]) -> Iterator[None]:
    """Run an attacker that writes a line when it has begun, if any, and end it."""
    if not words:
        yield
        return
    how = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, start_new_session=True, **how
    )
    try:
        process.stdout.readline()
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def failing(server: SshServer) -> list[str]:
    """The attacker that fails to log in."""
    wrong = make_key(server.directory, "wrong")
    ssh = ["ssh", "-F", "none", "-p", str(server.port), "-i", wrong, "-l", "bzr"]
    options = ("IdentitiesOnly=yes", "IdentityAgent=none", "BatchMode=yes")
    options += ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null")
    words = [*ssh, *(f"-o{each}" for each in options), "127.0.0.1", "id"]
    return ["sh", "-c", f"echo; while :; do {shlex.join(words)}; done"]


def add_files(server: SshServer) -> None:
    """Give it `MANY` files of keys more."""
    other = make_key(server.directory, "other") + ".pub"
    for number in range(MANY):
        place = os.path.join(server.directory, "keys", f"user{number}")
        shutil.copy(other, place)


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
        add_files(many)
        for server in (plain, one, many):
            with open(server.config, "a") as file:
                file.write("    BindAddress 127.0.0.2\n")
        sides: dict[str, tuple[SshServer, list[str]]] = {
            QUIET: (plain, []),
            HALF_OPEN: (
                plain,
                [
                    sys.executable,
                    os.path.abspath(__file__),
                    "--attack",
                    str(plain.port),
                ],
            ),
            ONE_FILE: (one, failing(one)),
            MANY_FILES: (many, failing(many)),
        }
        times: dict[str, list[float]] = {name: [] for name in sides}
        for name, counts in in_turn(list(sides), chosen.repeat, warm=1):
            server, words = sides[name]
            with attack(words):
                found = [connect(server.config)[0] for _ in range(_ROW)]
            if counts:
                times[name] += found
            # The server has seen that they are gone.
            wait_until(lambda server=server: quiet(server), "the server is quiet")
    result = Result()
    result.figures("ms until logged in", times, QUIET)
    result.figures(f"us of the index, {MANY} files", index_times(stage))
    more = ratios(times[HALF_OPEN], times[QUIET])
    result.target(f"a login beside {HALF_OPEN}", more, 2, at_most=True)
    added = [a - b for a, b in zip(times[MANY_FILES], times[ONE_FILE])]
    figure = f"what {MANY} files add to a login while others fail"
    result.target(figure, added, 1, "ms", at_most=True)
    return result


def quiet(server: SshServer) -> bool:
    """Whether nobody is connected to it any more."""
    port = f":{server.port:04X}"
    with open("/proc/net/tcp") as file:
        found = [line.split()[1:4] for line in file]
    return not any(a.endswith(port) and state == "01" for a, _, state in found)


def index_times(stage: Stage) -> dict[str, list[float]]:
    """Microseconds that the index of `MANY` files takes, by what for."""
    path = os.path.join(stage.path, "index")
    os.mkdir(path, 0o700)
    key = make_key(stage.path, "user") + ".pub"
    for number in range(MANY):
        shutil.copy(key, os.path.join(path, f"user{number}"))
    # A file that has just changed is read again.
    time.sleep(2.1)
    keys = KeyDirectory(path, "bzr")
    found = {"reading all files, once": timed(1, lambda: list(keys.renew()))}
    blob = next(iter(keys._users))
    found["looking a key up"] = timed(200, lambda: keys.known("user7", blob))
    endless = itertools.chain.from_iterable(keys.renew() for _ in itertools.count())
    found["a step of looking at all files"] = timed(800, lambda: next(endless))
    return found


def timed(count: int, work: Callable[[], object]) -> list[float]:
    """Microseconds that *work* takes, each time."""
    moments = [time.perf_counter()]
    for _ in range(count):
        work()
        moments.append(time.perf_counter())
    return [(b - a) * 1e6 for a, b in itertools.pairwise(moments)]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--attack"]:
        keep_open(int(sys.argv[2]))
    parser = arguments(__doc__, 10, f"turns, of {_ROW} logins each way")
    sys.exit(run("ssh_flood", parser, measure))
