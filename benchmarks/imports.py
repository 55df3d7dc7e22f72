# SPDX-License-Identifier: GPL-2.0-or-later

"""Whether a first connection imports modules that the zygote does not have.

Runs what users do over bzr+ssh. The service logs each module that a worker had to
import, once; it is shown for the first command that misses it.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import time

from runner import Result, options, run
from sides import PYTHON, client_words
from stage import FIFO, BenchmarkError, Service, Stage, wait_until

_MISSED = r"rehearsal missed modules: (.*)"
#: Commands of a client, in this order; URL/ is what is served. Those with "!" fail.
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


#: What Breezy runs as ssh. It asks for the version first.
_SSH = """\
#!/bin/sh
[ "$1" = -V ] && echo OpenSSH && exit
echo >>{home}/connections
exec env BRZ_HOME={home} {client}
"""


def measure(stage: Stage, chosen: argparse.Namespace) -> Result:
    place = os.path.join(stage.path, "client")
    os.mkdir(place)
    ssh = os.path.join(stage.path, "ssh")
    environ = stage.environ("client")
    environ |= {"BRZ_SSH": ssh, "BRZ_EMAIL": "benchmark", "BRZ": shlex.join(stage.brz)}
    result, rows = Result(), []
    with stage.service() as service:
        home = service.environ["BRZ_HOME"]
        counted = os.path.join(home, "connections")
        open(counted, "w").close()
        client = shlex.join(client_words(stage, PYTHON, FIFO))
        with open(ssh, "w") as file:
            file.write(_SSH.format(home=shlex.quote(home), client=client))
        os.chmod(ssh, 0o700)
        logged = served = 0
        for line in OPERATIONS.splitlines():
            began = time.perf_counter()
            script = f'set -e; brz() {{ $BRZ "$@"; }}; {line}'
            done = subprocess.run(
                ["sh", "-c", script.replace("URL", "bzr+ssh://host")],
                env=environ,
                cwd=place,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                raise BenchmarkError(f"{line}: {done.stderr}")
            took = f"{(time.perf_counter() - began) * 1000:.0f}"
            # Breezy does not wait for ssh, so some workers end later.
            before, served = served, os.stat(counted).st_size
            wait_until(lambda n=served: ended(service) >= n, "the workers have ended")
            log = service.log_text()
            names = " ".join(re.findall(_MISSED, log[logged:])).split()
            logged = len(log)
            rows.append([line, served - before, took, len(names)])
            if names:
                result.failures.append(f"{line} imports {' '.join(names)}")
        modules = service.settle()["modules"]
    result.table(["operation", "connections", "ms", "modules imported"], rows)
    result.text += f"{modules} modules were loaded before\n"
    return result


def ended(service: Service) -> int:
    """The number of connections that have ended."""
    return int(service.status()["totals"]["ended"])


if __name__ == "__main__":
    sys.exit(run(options(__doc__), measure))
