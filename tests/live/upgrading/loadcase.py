# SPDX-License-Identifier: GPL-2.0-or-later

"""Clients that connect and push while a service is changed: none is to notice."""

import math
import os
import sys
import threading
import time

from breezy.branch import Branch
from breezy.controldir import ControlDir

from ...harness import DEADLINE, HELLO, wait_until
from ..warm.warmcase import commit
from .test_upgrade import UpgradeCase

#: How often a test upgrades; connections in a second.
UPGRADES = int(os.environ.get("LPSERVE_UPGRADES", "0"))
RATE = 50
#: Branches that are pushed all the time, by a client each, and through which door.
PUSHED = {"one": "socket", "two": "fifo"}
#: The least seconds from one push to the next, so that others have processors, too.
PUSH_EACH = 0.5


class Period:
    """What happens in a part of a test.

    :ivar first_bytes: seconds until the answer to "hello", for each connection.
    :ivar refused, cut: connections with no worker, and without a good end.
    """

    def __init__(self):
        self.first_bytes = []
        self.refused = self.cut = self.pushes = 0

    def __str__(self):
        slowest = max(self.first_bytes, default=0) * 1000
        return (
            f"{len(self.first_bytes)} connections, {self.refused} refused, "
            f"{self.cut} cut, {self.pushes} pushes, longest first byte {slowest:.0f} ms"
        )


class LoadCase(UpgradeCase):
    """`RATE` connections come in a second, whatever becomes of those before."""

    door = "socket"

    def setUp(self):
        super().setUp()
        self.faults = []
        self.period = Period()
        self._over = threading.Event()
        #: When the last push began that is over.
        self._pushed = dict.fromkeys(PUSHED, 0.0)
        self._ssh = {
            each: self.make_ssh(f"--door={each}", "--no-fallback")
            for each in PUSHED.values()
        }
        for name in PUSHED:
            branch = ControlDir.create_branch_convenience(name, force_new_tree=False)
            commit(branch, 1)

    def load(self, run) -> None:
        """Have clients come and go until *run* has ended; none may have failed."""
        start = time.monotonic()
        threads = [
            threading.Thread(target=self._guard, args=(self._greet, start + n / RATE))
            for n in range(RATE)
        ]
        threads += [
            threading.Thread(target=self._guard, args=(self._push, *each))
            for each in PUSHED.items()
        ]
        for each in threads:
            each.start()
        try:
            run()
        finally:
            self._over.set()
            for each in threads:
                each.join(DEADLINE)
        self.assertEqual([], self.faults)
        for name in PUSHED:
            self.assertTrue(self._pushed[name])
            pushed = Branch.open(os.path.join(self.root, name)).last_revision()
            self.assertEqual(Branch.open(name).last_revision(), pushed)

    def begin(self) -> Period:
        """Begin to count anew; what was counted before."""
        before, self.period = self.period, Period()
        return before

    def tell(self, what: str) -> None:
        """Print what has been counted, and count anew."""
        print(f"upgrades: {what}: {self.begin()}", file=sys.stderr)

    def wait_pushes(self) -> None:
        """Wait until each branch has been pushed, from beginning to end."""
        now = time.monotonic()
        wait_until(
            lambda: self.faults or min(self._pushed.values()) > now, "all are pushed"
        )

    def _guard(self, run, *words):
        try:
            while not self._over.is_set():
                words = run(*words)
        except BaseException as error:
            self.faults.append(f"{type(error).__name__}: {error}")

    def _greet(self, due):
        """One connection, when it is *due*; the next one is due a second later.

        If it takes longer, that one is left out: a machine that is too slow for all
        this does not get ever more to do.
        """
        # The rate is what this is about.
        if self._over.wait(max(0.0, due - time.monotonic())):
            return (due,)
        period, began = self.period, time.monotonic()
        made = self.connect("alice")
        if made.answer[0] != "ok":
            period.refused += 1
            self.faults.append(f"refused: {made.answer}")
            return (due + 1,)
        if self.door == "fifo":
            made.open()
        answer = made.hello()
        period.first_bytes.append(time.monotonic() - began)
        made.close()
        end = made.end()
        if answer != HELLO or end != ["exit", "0"]:
            period.cut += 1
            self.faults.append(f"cut: {answer} {end}")
        return (due + math.ceil(time.monotonic() - due),)

    def _push(self, name, door):
        """Commit, and push all of it."""
        began = time.monotonic()
        commit(Branch.open(name), 1)
        words = ("push", "-d", name, f"bzr+ssh://host/{name}")
        self.run_brz(*words, BRZ_SSH=self._ssh[door])
        self._pushed[name] = began
        self.period.pushes += 1
        self._over.wait(max(0.0, began + PUSH_EACH - time.monotonic()))
        return (name, door)
