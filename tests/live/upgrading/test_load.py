# SPDX-License-Identifier: GPL-2.0-or-later

"""Upgrades while clients connect and push: nobody is refused, nobody is cut."""

import os
import sys
import threading
import time

from breezy.branch import Branch
from breezy.controldir import ControlDir

from ...harness import DEADLINE, HELLO
from ..warm.warmcase import commit
from .test_upgrade import UpgradeCase

#: How many upgrades there are, and how many connections in a second.
UPGRADES = int(os.environ.get("LPSERVE_UPGRADES", "3"))
RATE = 50


class TestLoad(UpgradeCase):
    """FAULT-free is not enough: no connection knows of an upgrade."""

    door = "socket"

    def setUp(self):
        super().setUp()
        self.over = threading.Event()
        self.faults = []
        self.first_bytes = []
        self.pushes = 0

    def test_load(self):
        self.make_trees()
        self.start_service("--client-timeout=60")
        threads = [threading.Thread(target=self.guard, args=(self.greet,))]
        threads += [
            threading.Thread(target=self.guard, args=(self.push, name))
            for name in ("one", "two")
        ]
        for each in threads:
            each.start()
        try:
            for _ in range(UPGRADES):
                self.upgrade()
                self.wait_alone()
        finally:
            self.over.set()
            for each in threads:
                each.join(DEADLINE)
        self.assertEqual([], self.faults)
        slowest = max(self.first_bytes) * 1000
        print(
            f"upgrades: {UPGRADES}, {len(self.first_bytes)} connections, "
            f"{self.pushes} pushes, longest first byte {slowest:.0f} ms",
            file=sys.stderr,
        )
        self.assertTrue(self.pushes)
        for name in ("one", "two"):
            pushed = Branch.open(os.path.join(self.root, name)).last_revision()
            self.assertEqual(Branch.open(name).last_revision(), pushed)

    def guard(self, run, *words):
        try:
            while not self.over.is_set():
                run(*words)
        except BaseException as error:
            self.faults.append(f"{type(error).__name__}: {error}")

    def greet(self):
        """One connection, when its time has come."""
        began = time.monotonic()
        made = self.connect("alice")
        self.assertEqual(HELLO, made.hello())
        self.first_bytes.append(time.monotonic() - began)
        made.close()
        self.assertEqual(["exit", "0"], made.end())
        # The rate is what this test is about.
        time.sleep(max(0.0, began + 1 / RATE - time.monotonic()))

    def make_trees(self):
        for name in ("one", "two"):
            branch = ControlDir.create_branch_convenience(name, force_new_tree=False)
            commit(branch, 1)

    def push(self, name):
        """Commit, and push all of it."""
        commit(Branch.open(name), 1)
        ssh = self.make_ssh("--door=socket", "--no-fallback")
        words = ("push", "-d", name, f"bzr+ssh://host/{name}")
        self.run_brz(*words, BRZ_SSH=ssh)
        self.pushes += 1
