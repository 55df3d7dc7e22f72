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
from typing import Any

from common import arguments, run
from figures import median, summary, table, target, times_table, us
from sshstage import LP_SERVE_SSH, SERVICE, Host, SshServer, connect, make_key
from stage import PLUGIN, USER, Stage, wait_until

sys.path.insert(0, PLUGIN)

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
    while True:
        opened = time.monotonic()
        while len(made) < MANY and (not made or time.monotonic() < opened + 0.01):
            each = socket.create_connection(("127.0.0.1", port))
            made[each.fileno()] = each
            poll.register(each, select.POLLIN)
        if len(made) == MANY:
            sys.stdout.write("\n")
            sys.stdout.flush()
            break
    while True:
        for descriptor, _ in poll.poll():
            with contextlib.suppress(ConnectionError):
                if made[descriptor].recv(65536):
                    continue
            poll.unregister(descriptor)
            made.pop(descriptor).close()
            time.sleep(0.01)
            each = socket.create_connection(("127.0.0.1", port))
            made[each.fileno()] = each
            poll.register(each, select.POLLIN)


@contextlib.contextmanager
def attack(words: list[str]) -> Iterator[None]:
    """Run an attacker that writes a line when it has begun, and end it."""
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def half_open(server: SshServer) -> list[str]:
    """The attacker that keeps connections open."""
    return [sys.executable, os.path.abspath(__file__), "--attack", str(server.port)]


def failing(server: SshServer) -> list[str]:
    """The attacker that fails to log in."""
    wrong = os.path.join(server.directory, "wrong")
    if not os.path.exists(wrong):
        make_key(wrong)
    ssh = ["ssh", "-F", "none", "-p", str(server.port), "-i", wrong, "-l", "bzr"]
    options = ("IdentitiesOnly=yes", "IdentityAgent=none", "BatchMode=yes")
    options += ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null")
    words = [*ssh, *(f"-o{each}" for each in options), "127.0.0.1", "id"]
    return ["sh", "-c", f"echo; while :; do {shlex.join(words)}; done"]


def add_files(server: SshServer) -> None:
    """Give it `MANY` files of keys more."""
    keys = os.path.join(server.directory, "keys")
    make_key(os.path.join(server.directory, "other"))
    for number in range(MANY):
        path = os.path.join(keys, f"user{number}")
        shutil.copy(os.path.join(server.directory, "other.pub"), path)


def host_of(server: SshServer, name: str) -> Host:
    """How who logs in knows it."""
    with open(server.config, "a") as file:
        file.write("    BindAddress 127.0.0.2\n")
    return Host(LP_SERVE_SSH, SERVICE, name, server.config)


def measure(stage: Stage, chosen: argparse.Namespace) -> dict[str, Any]:
    times: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        service = enter(stage.service("service"))
        settings = {"runtime_dir": service.directory, "directory": stage.root}
        unlimited = stage.service("unlimited", per_source_penalties="no", **settings)
        plain = enter(SshServer(stage, "plain", service.environ))
        one = enter(SshServer(stage, "one", unlimited.environ))
        many = enter(SshServer(stage, "many", unlimited.environ))
        add_files(many)
        hosts = {
            server: host_of(server, name)
            for server, name in ((plain, "plain"), (one, "one"), (many, "many"))
        }
        sides: dict[str, tuple[SshServer, Callable[[SshServer], list[str]] | None]] = {
            QUIET: (plain, None),
            HALF_OPEN: (plain, half_open),
            ONE_FILE: (one, failing),
            MANY_FILES: (many, failing),
        }
        for number in range(-1, chosen.repeat):
            for name, (server, attacker) in sides.items():
                with contextlib.ExitStack() as attacked:
                    if attacker is not None:
                        attacked.enter_context(attack(attacker(server)))
                    found = [connect(hosts[server])[0] for _ in range(_ROW)]
                if number >= 0:
                    times.setdefault(name, []).extend(found)
                # The server has seen that they are gone.
                wait_until(lambda server=server: quiet(server), "the server is quiet")
    return report(times, index_times(stage))


def quiet(server: SshServer) -> bool:
    """Whether nobody is connected to it any more."""
    port = f":{server.port:04X}"
    with open("/proc/net/tcp") as file:
        found = [line.split()[1:4] for line in file]
    return not any(a.endswith(port) and state == "01" for a, _, state in found)


def index_times(stage: Stage) -> dict[str, float]:
    """Seconds that the index of `MANY` files takes, by what for."""
    path = os.path.join(stage.path, "index")
    os.mkdir(path, 0o700)
    key = os.path.join(stage.path, USER)
    make_key(key)
    for number in range(MANY):
        shutil.copy(key + ".pub", os.path.join(path, f"user{number}"))
    # A file that has just changed is read again.
    time.sleep(2.1)
    keys = KeyDirectory(path, "bzr")
    began = time.perf_counter()
    for _ in keys.renew():
        pass
    found = {"reading all files, once": time.perf_counter() - began}
    blob = next(iter(keys._users))
    lookups, steps = [], []
    for _ in range(200):
        began = time.perf_counter()
        keys.known("user7", blob)
        lookups.append(time.perf_counter() - began)
    for _ in range(20):
        renewing = keys.renew()
        while True:
            began = time.perf_counter()
            over = next(renewing, renewing) is renewing
            if over:
                break
            steps.append(time.perf_counter() - began)
    found["looking a key up"] = median(lookups)
    found["a step of looking at all files"] = median(steps)
    return found


def report(times: dict[str, list[float]], index: dict[str, float]) -> dict[str, Any]:
    """The result, as `common.run` takes it."""
    text = times_table("ms until logged in", times, QUIET)
    rows = [[what, us(seconds)] for what, seconds in index.items()]
    text += "\n" + table([f"the index, {MANY} files", "us"], rows)
    ratio = median(times[HALF_OPEN]) / median(times[QUIET])
    added = median(times[MANY_FILES]) - median(times[ONE_FILE])
    more = f"what {MANY} files add to a login while others fail"
    return {
        "text": text + "\n",
        "unit": "seconds",
        "ways": {way: summary(values) for way, values in times.items()},
        "index": index,
        "times": times,
        "targets": [
            target(f"a login beside {HALF_OPEN}", ratio, 2, "times", at_most=True),
            target(more, added * 1000, 1, "ms", at_most=True),
        ],
    }


def main() -> int:
    if sys.argv[1:2] == ["--attack"]:
        keep_open(int(sys.argv[2]))
    parser = arguments(__doc__, 10, f"turns, of {_ROW} logins each way")
    return run("ssh_flood", parser, measure)


if __name__ == "__main__":
    sys.exit(main())
