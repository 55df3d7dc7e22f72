# SPDX-License-Identifier: GPL-2.0-or-later

"""What is in memory stays there over a restart (``FDSTORE=1`` of sd_notify(3))."""

import os

from ...harness import DEADLINE
from ..warm.warmcase import SAME_ORDER, WarmCase
from .systemdcase import SystemdCase


class TestKept(SystemdCase, WarmCase):
    def start_kept(self):
        """Start a service with what systemd has kept; the log from there."""
        start = len(self.log_text()) if os.path.exists(self.log_path) else 0
        self.configure(warm_interval=0)
        self.start_service(**SAME_ORDER)
        return start

    def restart(self):
        self.service.terminate()
        self.assertEqual(0, self.service.wait(DEADLINE))
        self.receive_all()
        return self.start_kept()

    def test_restart(self):
        """The first connection finds it, and nothing is read anew."""
        self.make_branch("one")
        self.make_branch("two")
        self.start_kept()
        self.rest()
        self.wait_warm("one")
        self.wait_warm("two")
        self.wait_stored(2)
        start = self.restart()
        entry = self.entry("one")
        self.assertEqual(("warm", 3), (entry["state"], entry["revisions"]))
        self.use("one")
        self.use("two")
        # A worker reports what it has used after it has answered.
        self.wait_for_totals(ended=2)
        self.assertEqual(1, self.entry("one")["hits"])
        self.assertEqual(1, self.entry("two")["hits"])
        said = self.log_text(start)
        self.assertEqual(2, said.count("is still in memory"), said)
        self.assertNotContainsRe(said, "warm: loaded|Traceback")
        # What has changed meanwhile is read anew, and the old is not kept.
        self.service.terminate()
        self.assertEqual(0, self.service.wait(DEADLINE))
        tip = self.commit("one")
        start = self.start_kept()
        words, _ = self.once(b"Repository.get_parent_map", b"one/", tip, body=b"\n\n0")
        self.assertEqual((b"ok",), words)
        self.wait_for_log("warm: loaded ", start)
        self.wait_warm("one")
        self.assertEqual(4, self.entry("one")["revisions"])
        self.wait_stored(2)

    def test_not_wanted(self):
        """What is not to be kept any more, or is none of ours, systemd closes."""
        self.make_branch("one")
        self.start_kept()
        self.rest()
        self.wait_warm("one")
        self.wait_stored(1)
        forged = os.memfd_create("forged", os.MFD_ALLOW_SEALING)
        os.write(forged, b"rubbish")
        (name,) = self.store
        os.close(self.store[name])
        self.store = {name: forged, "later": os.open(os.devnull, os.O_RDONLY)}
        start = self.restart()
        self.use("one")
        self.wait_for_log("warm: loaded ", start)
        self.assertContainsString(self.log_text(start), ", which can be changed: it is")
        self.assertNotContainsRe(self.log_text(start), "still in memory|Traceback")
        self.wait_stored(1)
        self.assertEqual([], [each for each in self.store if each in (name, "later")])
