# SPDX-License-Identifier: GPL-2.0-or-later

"""Breezy's locks, and who has them."""

import os
import re
import signal

from breezy import osutils
from breezy.controldir import ControlDir

from ...harness import LiveTestCase
from ..warm.warmcase import SmartClient


class TestBreakLock(LiveTestCase):
    """What a worker that was killed has left locked: a user is told who has it."""

    door = "socket"

    def break_lock(self, answer):
        """What ``brz break-lock`` says to a user who answers so."""
        words = self.brz("break-lock", "bzr+ssh://host/trunk")
        done = self.run_program(words, answer, BRZ_SSH=self.make_ssh("--door=socket"))
        self.assertEqual(0, done.returncode, done.stderr.decode())
        return (done.stdout + done.stderr).decode()

    def test_break_lock(self):
        path = os.path.join(self.root, "trunk")
        ControlDir.create_branch_convenience(path, force_new_tree=False)
        self.start_service()
        connection = self.connect()
        asker = SmartClient(connection.stdout, connection.stdin)
        connection.close()
        self.addCleanup(asker.close)
        words, _ = asker.ask(b"Branch.lock_write", b"trunk/", b"", b"")
        self.assertEqual(b"ok", words[0])
        os.kill(connection.pid, signal.SIGKILL)
        self.assertEqual(["signal", "9"], connection.end())
        host, pid = re.escape(osutils.get_host_name()), connection.pid
        held = os.path.join(path, ".bzr", "branch", "lock", "held")
        for answer, left in ((b"n\n", True), (b"y\n", False)):
            said = self.break_lock(answer)
            self.assertContainsRe(said, rf"held by \S+ on {host} \(process #{pid}\)")
            self.assertEqual(left, os.path.exists(held))
