# SPDX-License-Identifier: GPL-2.0-or-later

"""The throughput of the client's relay, compared with a bare pipe.

1 GiB to the worker and 1 GiB from it, through the FIFOs with each client. A plug-in
has workers move bytes, since a smart server would be slower than the relay. The start
of the client is part of the time.
"""

from __future__ import annotations

import argparse
import functools
import shlex
import subprocess
import sys
import time

from runner import Result, in_rounds, options, ratios, run
from sides import NATIVE, PYTHON, client_words
from stage import DEADLINE, FIFO, BenchmarkError, Service, Stage

BARE = "no client"
TO, FROM = "to the worker", "from the worker"
#: Bytes of one read or write: the capacity of a pipe.
_BLOCK = 1 << 16
#: Workers read all their input, and write its length, or so many blocks if it is empty.
_PLUGIN = """\
import os
from breezy.plugins.lpserve.lpserve.zygote import worker
def serve(context, ready):
    count = 0
    while data := os.read(0, {size}):
        count += len(data)
    if count:
        os.write(1, b"%d bytes" % count)
        return 0
    block = bytes({size})
    for _ in range({blocks}):
        os.write(1, block)
    return 0
worker._serve = serve
"""


def move(service: Service, script: str, count: int) -> float:
    """Run *script*, which says that it moved *count* bytes; MiB per second."""
    service.settle()
    environ = service.environ | {"LC_ALL": "C"}
    began = time.perf_counter()
    done = subprocess.run(
        ["sh", "-c", script],
        env=environ,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    took = time.perf_counter() - began
    if f"{count} bytes" not in done.stdout + done.stderr:
        raise BenchmarkError(f"{count} bytes should have come: {done}")
    return count / took / (1 << 20)


def measure(stage: Stage, chosen: argparse.Namespace) -> Result:
    count = chosen.mib << 20
    blocks = count // _BLOCK
    writer = f"dd if=/dev/zero bs={_BLOCK} count={blocks} status=none"
    reader = f"dd of=/dev/null bs={_BLOCK}"
    scripts = {(way, BARE): f"{writer} | {reader}" for way in (TO, FROM)}
    for kind in (NATIVE, PYTHON):
        client = shlex.join(client_words(stage, kind, FIFO))
        scripts[TO, kind] = f"{writer} | {client}"
        scripts[FROM, kind] = f"{client} </dev/null | {reader}"
    service = stage.service()
    service.add_plugin("mover", _PLUGIN.format(size=_BLOCK, blocks=blocks))
    with service:
        ways = {
            key: functools.partial(move, service, script, count)
            for key, script in scripts.items()
        }
        rates = in_rounds(ways, chosen.repeat, warm=0)
    result = Result()
    for way in (TO, FROM):
        found = {name: rates[way, name] for name in (BARE, NATIVE, PYTHON)}
        result.figures(f"MiB per second, {way}", found)
        for name in (NATIVE, PYTHON):
            share = [each * 100 for each in ratios(found[name], found[BARE])]
            what = f"{chosen.mib} MiB {way} through the relay, {name}"
            result.target(what, share, 80, "% of a bare pipe")
    return result


if __name__ == "__main__":
    parser = options(__doc__, repeat=(6, "times each way"), mib=(1024, "MiB each time"))
    sys.exit(run(parser, measure))
