# SPDX-License-Identifier: GPL-2.0-or-later

"""What a first connection imports that the zygote had not: nothing, if all is well.

Runs what users do over bzr+ssh, each command in connections of its own; then shows
which modules their workers had to import, as the service has logged it. The service
names each module once, so what two commands miss is shown for the first of them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import subprocess
import sys
import time

from runner import Result, arguments, run
from sides import PYTHON, client_words
from stage import FIFO, BenchmarkError, Stage, wait_until

_MISSED = "rehearsal missed modules: "
#: In this order, in a directory of the client; URL/ is what is served. A "!" stands
#: before what has to fail.
OPERATIONS = """\
brz init -q local; date > local/file; brz add -q local; brz commit -q -m 1 local
brz push -q -d local URL/trunk
brz branch -q URL/trunk sprouted
brz tag -q -d local one; date >> local/file; brz commit -q -m 2 local
brz push -q -d local URL/trunk
brz pull -q -d sprouted URL/trunk
brz missing -q -d sprouted URL/trunk
brz tag -q -d URL/trunk other
brz tags -d URL/trunk
brz log -l 10 -v URL/trunk
brz ls -R URL/trunk
brz cat URL/trunk/file
brz info -v URL/trunk
brz revno URL/trunk
brz checkout -q URL/trunk bound; date >> bound/file; brz commit -q -m 3 bound
brz checkout -q --lightweight URL/trunk light; date >> light/file
brz commit -q -m 4 light
brz break-lock --force URL/trunk
brz init -q URL/made
brz init-shared-repository -q --no-trees URL/shared
brz push -q -d local URL/shared/a
brz push -q -d bound --stacked-on URL/trunk URL/stacked
brz branch -q URL/stacked unstacked
date > unstacked/second; brz add -q unstacked; brz commit -q -m aside unstacked
brz pull -q -d sprouted URL/trunk
brz merge -q -d sprouted --force unstacked; brz commit -q -m merge sprouted
brz push -q -d sprouted URL/trunk
brz pack URL/trunk
brz config -d URL/trunk push_location=elsewhere
brz config -d URL/trunk push_location
brz uncommit -q --force URL/trunk
brz push -q -d local --overwrite URL/trunk
brz check URL/trunk
! brz info URL/nothing
brz remove-branch -q --force URL/made
"""


def measure(stage: Stage, chosen: argparse.Namespace) -> Result:
    place = os.path.join(stage.path, "client")
    os.mkdir(place)
    ssh = os.path.join(stage.path, "ssh")
    environ = stage.environ("client")
    environ |= {"BRZ_SSH": ssh, "BRZ_EMAIL": "benchmark", "BRZ": shlex.join(stage.brz)}
    result, rows = Result(), []
    with stage.service() as service:
        environ["LPSERVE_HOME"] = service.environ["BRZ_HOME"]
        words = shlex.join(client_words(stage, PYTHON, FIFO))
        with open(ssh, "w") as file:
            # Breezy asks it what it is.
            file.write('#!/bin/sh\n[ "$1" = -V ] && echo OpenSSH && exit\n')
            file.write("echo >>$LPSERVE_HOME/connections\n")
            file.write(f"exec env BRZ_HOME=$LPSERVE_HOME {words}\n")
        os.chmod(ssh, 0o700)
        connections = os.path.join(service.environ["BRZ_HOME"], "connections")
        served = 0
        for line in OPERATIONS.splitlines():
            start, before = len(service.log_text()), served
            began = time.perf_counter()
            script = f'set -e; brz() {{ $BRZ "$@"; }}; {line}'
            words = ["sh", "-c", script.replace("URL", "bzr+ssh://host")]
            how = {"env": environ, "cwd": place, "stdin": subprocess.DEVNULL}
            done = subprocess.run(words, capture_output=True, text=True, **how)
            if done.returncode:
                raise BenchmarkError(f"{line}: {done.stderr}")
            took = time.perf_counter() - began
            with contextlib.suppress(FileNotFoundError):
                served = os.stat(connections).st_size
            wait_until(
                lambda n=served: service.status()["totals"]["ended"] >= n,
                "the workers have ended",
            )
            names = missed_in(service.log_text()[start:])
            rows.append([line, served - before, f"{took * 1000:.0f}", len(names)])
            if names:
                result.failures.append(f"{line} imports {' '.join(names)}")
        modules = service.settle()["modules"]
    result.table(["operation", "connections", "ms", "modules imported"], rows)
    result.text += f"{modules} modules were loaded before\n"
    return result


def missed_in(log: str) -> list[str]:
    """The modules that *log* names."""
    lines = log.splitlines()
    return [name for line in lines for name in line.partition(_MISSED)[2].split()]


if __name__ == "__main__":
    sys.exit(run("imports", arguments(__doc__), measure))
