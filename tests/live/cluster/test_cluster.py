# SPDX-License-Identifier: GPL-2.0-or-later

"""Three hosts behind HAProxy, each drained, upgraded and killed while clients work.

LPSERVE_CLUSTER_SECONDS says for how long.
"""

import contextlib
import glob
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict

from breezy.branch import Branch
from breezy.controldir import ControlDir
from breezy.tests import TestSkipped

from ....lpserve.client import conversation
from ...harness import DEADLINE, LiveTestCase, wait_until
from ..faults.victims import state_of
from ..ssh.sshcase import sshd_feature
from ..ssh.test_haproxy import haproxy_feature
from ..warm.warmcase import commit
from .judge import Judgement, Loss

try:
    from ....demo import hosts
except ImportError:  # what is installed has no demo/
    hosts = None

SECONDS = float(os.environ.get("LPSERVE_CLUSTER_SECONDS", "120"))
CLIENTS = 10
#: The branch of all clients, as clients.py has it.
SHARED = "trunk"
#: Seconds from one operation of a client to its next: all clients together, and what
#: serves them, take about half a processor.
PACE = 8.0
_PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "clients.py")
#: A program: 'brz check' for each path.
_CHECK = """
import sys, breezy, breezy.commands
with breezy.initialize():
    for path in sys.argv[1:]:
        assert breezy.commands.main(["brz", "check", path]) == 0, path
"""
#: The shortest time in which all hosts have had their turn once.
ROUND = 100.0
#: Seconds that are waited for a push before a host is killed.
PATIENCE = 8.0
#: The lines of 'brz check' that tell of no fault.
_healthy = re.compile(
    r"Checking |No working tree found |checked (repository|branch) |"
    r" *\d+ (revisions|file-ids)$"
)


class TestCluster(LiveTestCase):
    def setUp(self):
        super().setUp()
        if hosts is None:
            raise TestSkipped("demo/ is not here")
        self.requireFeature(haproxy_feature)
        self.requireFeature(sshd_feature)
        extra = {**self.env, **self.rehearsed()}
        # What each process has of its own.
        for name in ("HOME", "BRZ_HOME", "XDG_CACHE_HOME", "LPSERVE_RUNTIME_DIR"):
            del extra[name]
        directory = os.path.join(self.test_dir, "cluster")
        self.cluster = hosts.Cluster(directory, hosts.free_network(), extra)
        self.root = self.cluster.tree
        self.losses = []
        self.locks = 0
        self.noticed = defaultdict(list)
        self.dead = os.path.join(self.test_dir, "dead")
        self.reports = os.path.join(self.test_dir, "reports")
        self.errors = os.path.join(self.test_dir, "errors")

    def test_cluster(self):
        self.addCleanup(self.check_hosts)
        self.addCleanup(self.cluster.stop)
        path = os.path.join(self.root, SHARED)
        commit(ControlDir.create_branch_convenience(path, force_new_tree=False), 20)
        self.cluster.start()
        with open(self.dead, "w"):
            pass
        program = self.start_clients()
        self.wait_for_clients(program)
        actions = (self.drain, self.upgrade, self.lose)
        rounds = max(1, round(SECONDS / ROUND))
        plan = list(itertools.product(range(rounds), hosts.NAMES, actions))
        began = time.monotonic()
        for number, (_, name, act) in enumerate(plan):
            # This is how long the clients work, and nothing else tells it.
            self.let_work(program, began + SECONDS * number / len(plan))
            act(name)
        self.let_work(program, began + SECONDS)
        program.stdin.close()
        self.assertEqual(0, program.wait(3 * DEADLINE), self.said())
        for name, host in self.cluster.hosts.items():
            self.check_host(name, host)
        self.cluster.stop()
        self.check_all(time.monotonic() - began)

    # -- clients ---------------------------------------------------------------

    def start_clients(self):
        """Start the program; it writes to files."""
        words = [str(CLIENTS), os.path.join(self.test_dir, "clients")]
        words += [self.cluster.url, self.dead, str(PACE)]
        seed = os.environ.get("LPSERVE_CLUSTER_SEED") or random.randrange(1 << 32)
        self.seed = int(seed)
        with open(self.reports, "wb") as reports, open(self.errors, "wb") as errors:
            popen = {"stdout": reports, "stderr": errors}
            return self.start_words(
                [sys.executable, _PROGRAM, *words, str(seed)],
                popen,
                **self.cluster.client.env,
            )

    def read_reports(self):
        with open(self.reports) as file:
            return [json.loads(line) for line in file if line.endswith("\n")]

    def wait_for_clients(self, program):
        """Until each has made its branches."""

        def ready():
            self.assertEqual(None, program.poll(), self.said())
            return sum("ready" in each for each in self.read_reports()) == CLIENTS

        wait_until(ready, "the clients have made their branches")

    def said(self):
        """Why clients have ended."""
        with open(self.errors) as file:
            return file.read()

    def let_work(self, program, until):
        """Let clients work until then."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            program.wait(max(0.01, until - time.monotonic()))
            self.fail(f"a client has ended: {self.said()}")

    # -- what happens to hosts ---------------------------------------------------

    def drain(self, name):
        self.noticed["drained"].append(self.cluster.drain(name))
        host = self.cluster.hosts[name]
        wait_until(lambda: not self.busy(host), f"host {name} has no connections")
        self.noticed["resumed"].append(self.cluster.resume(name))

    def upgrade(self, name):
        host = self.cluster.hosts[name]
        before = self.status_of(host)["pid"]
        host.upgrade()
        self.assertNotEqual(before, self.status_of(host)["pid"])

    def lose(self, name):
        """Kill it, in the middle of a push if there is one, and start it again."""
        self.lock_files = [
            os.path.join(self.root, branch, ".bzr", part, "lock", "held", "info")
            for branch in os.listdir(self.root)
            for part in ("branch", "repository")
        ]
        with contextlib.suppress(AssertionError):
            wait_until(lambda: self.stop_pushing(name), "a push", PATIENCE)
        loss = Loss(name, time.time())
        self.losses.append(loss)
        pids, seconds = self.cluster.lose(name)
        loss.noticed = time.time()
        with open(self.dead, "a") as file:
            file.writelines(f"{name} {pid}\n" for pid in pids)
        self.noticed["killed"].append(seconds)
        self.noticed["restarted"].append(self.cluster.bring_back(name))

    def stop_pushing(self, name):
        """Stop a worker of a host that has a lock; whether there is one.

        It is about to be killed, and would otherwise have unlocked before.
        """
        for path in self.lock_files:
            # Nobody has it, or it is being made.
            with contextlib.suppress(OSError, TypeError):
                if (pid := self.holder(path, name)) is None:
                    continue
                os.kill(pid, signal.SIGSTOP)
                wait_until(
                    lambda pid=pid: state_of(pid) in (b"T", b"Z", b""), "it has stopped"
                )
                if self.holder(path, name) == pid:
                    self.locks += 1
                    return True
                os.kill(pid, signal.SIGCONT)
        return False

    def holder(self, path, name):
        """The pid of the worker of a host that has the lock with this information."""
        with open(path) as file:
            text = file.read()
        host, pid = (
            re.search(rf"(?m)^{each}: (\S+)$", text)[1] for each in ("hostname", "pid")
        )
        return int(pid) if host == name else None

    # -- what is to be true at the end -------------------------------------------

    def status_of(self, host):
        """The status of its service."""
        words = conversation.ask(host.path("run"), ["status"], DEADLINE)
        return json.loads(words[1])

    def busy(self, host):
        """How many connections it has."""
        return self.status_of(host)["workers"]["busy"]

    def check_host(self, name, host):
        """It is at rest, and nothing has gone wrong but what was done to it."""
        wait_until(lambda: not self.busy(host), f"host {name} has no connections")
        self.assertEqual(0, self.status_of(host)["totals"]["faults"])
        for path in glob.glob(host.path("*.log*")):
            with open(path) as log:
                self.assertNotContainsRe(log.read(), "Traceback|penalty|is refused")

    def check_hosts(self):
        """Nothing is left behind."""
        for host in self.cluster.hosts.values():
            self.runtime = host.path("run")
            self.check_nothing_left()

    def check_all(self, seconds):
        with open(self.cluster.log) as file:
            judged = Judgement(self.read_reports(), file.read(), self.losses)
        self.tell(judged, seconds)
        self.assertEqual([], judged.unexplained)
        names = sorted(os.listdir(self.root))
        self.assertEqual(1 + 2 * CLIENTS, len(names))
        self.check_repositories(names)
        for name, revisions in judged.pushed.items():
            self.check_pushed(name, set(revisions))

    def check_repositories(self, names):
        paths = [os.path.join(self.root, name) for name in names]
        done = self.run_program([sys.executable, "-c", _CHECK, *paths])
        said = (done.stdout + done.stderr).decode()
        self.assertEqual(0, done.returncode, said)
        faults = [line for line in said.splitlines() if not _healthy.match(line)]
        self.assertEqual([], faults)
        self.assertEqual(len(names), said.count("checked repository"))

    def check_pushed(self, name, revisions):
        """What a client was told to be there is in the history of the branch."""
        branch = Branch.open(os.path.join(self.root, name))
        self.assertEqual([], glob.glob(f"{self.root}/{name}/.bzr/*/lock/held"))
        with branch.lock_read():
            graph = branch.repository.get_graph()
            tip = branch.last_revision()
            history = {each for each, _ in graph.iter_ancestry([tip])}
        self.assertEqual(set(), revisions - history, name)

    def tell(self, judged, seconds):
        """The figures."""
        took, kind = judged.longest
        noticed = ", ".join(
            f"{what} {min(found):.1f} to {max(found):.1f} s"
            for what, found in self.noticed.items()
        )
        sys.stderr.write(
            f"\ncluster: seed {self.seed}, {seconds:.0f} s, {CLIENTS} clients\n"
            f"  succeeded: {dict(sorted(judged.counts.items()))}\n"
            f"  failed: {dict(sorted(judged.failures.items()))}\n"
            f"  killed in a push: {self.locks} of {len(self.losses)}\n"
            f"  HAProxy has noticed: {noticed}\n"
            f"  longest operation: {took:.1f} s ({kind})\n"
        )
