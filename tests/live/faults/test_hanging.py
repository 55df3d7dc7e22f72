# SPDX-License-Identifier: GPL-2.0-or-later

"""FAULT 50: processes that hang: nobody waits for them for ever, nothing is left."""

import os
import signal

from breezy.tests.scenarios import load_tests_apply_scenarios, multiply_scenarios

from ...harness import BY_DOOR, DEADLINE, HELLO, LiveTestCase, wait_until
from .victims import is_gone, kind_of

load_tests = load_tests_apply_scenarios

#: A service that loses patience sooner. It still has a second for each look, so that
#: what is only slow is left alone.
IMPATIENT = """
import sys
if "--fork-server" in sys.argv:
    from breezy.plugins.lpserve.lpserve.service import generation, server, stuck
    generation.LOOKS = 3
    server.HOUSEKEEPING = 1.0
    stuck.GRACE = 3.0
"""
#: A zygote, or what it forks, that hangs at a fork: once, when the file is there.
HANGS = """
import os, signal, sys

def _hang():
    try:
        os.unlink(%r)
    except FileNotFoundError:
        return
    path = %r
    with open(path + ".new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(path + ".new", path)
    while True:
        signal.pause()

if "--zygote" in sys.argv:
    os.register_at_fork(%s=_hang)
    if %r:
        from breezy.plugins.lpserve.lpserve import system
        system._clone = None
"""

#: A service whose children cannot be killed, as if they waited in the kernel.
UNKILLABLE = """
import sys
if "--fork-server" in sys.argv:
    from breezy.plugins.lpserve.lpserve.service import children, server
    children.Child.signal = lambda self, number: None
    server.LET_GO = 0.5
"""


class HangingCase(LiveTestCase):
    def setUp(self):
        super().setUp()
        self.add_plugin("impatient", IMPATIENT)
        self.set(spare_workers=2, max_spare_workers=2)

    def set(self, **options):
        """Configure; the deadline is the test's, not the service's."""
        self.configure(connect_timeout=DEADLINE, **options)

    def kinds(self):
        """How many processes there are of each kind."""
        found = [kind_of(pid)[0] for pid in self.processes()]
        return {kind: found.count(kind) for kind in found}

    def wait_for_order(self):
        """Wait until there are a service, a zygote and two spare workers only."""
        wanted = {"service": 1, "zygote": 1, "spare": 2}
        wait_until(lambda: self.kinds() == wanted, "each is there once")
        self.rest()
        self.assertEqual(0, self.status()["totals"]["faults"], self.log_text())

    def wait_spares(self):
        wait_until(lambda: self.status()["workers"]["spare"] == 2, "two spare workers")

    def spares(self):
        """The pids of the spare workers, once all of them have the title of one."""
        count = self.status()["workers"]["spare"]

        def found():
            pids = [pid for pid in self.processes() if kind_of(pid)[0] == "spare"]
            return pids if len(pids) == count else None

        return wait_until(found, f"{count} spare workers have practised")


class TestZygote(HangingCase):
    scenarios = BY_DOOR

    def test_stopped(self):
        """Clients that wait get workers of the next zygote; others go on."""
        self.start_service()
        self.rest()
        zygote = self.status()["zygote"]
        os.kill(zygote, signal.SIGSTOP)
        connections = self.serve(*(f"user{n}" for n in range(5)), doors=[self.door])
        self.wait_for_log("the zygote has ended: it has not answered for 3 s")
        self.assertTrue(is_gone(zygote))
        self.assertEqual(2, self.status()["generation"])
        self.finish(*connections)
        self.wait_for_order()
        self.wait_for_totals(spawned=5, ended=5, failed=0)

    def test_stopped_when_idle(self):
        """A zygote that hangs is replaced although nobody waits for a worker."""
        self.start_service()
        self.rest()
        zygote = self.status()["zygote"]
        os.kill(zygote, signal.SIGSTOP)
        wait_until(lambda: is_gone(zygote), "it was killed")
        self.wait_for_order()
        self.finish(*self.serve("alice"))


class TestInMidFork(HangingCase):
    """A handler of a plug-in never returns."""

    scenarios = multiply_scenarios(
        [
            (name, {"moment": name})
            for name in ("before", "after_in_parent", "after_in_child")
        ],
        [("clone", {"middle": False}), ("middle process", {"middle": True})],
    )

    def test_hangs(self):
        """Each client gets one worker, and no half-forked process stays."""
        flag = os.path.join(self.test_dir, "flag")
        hung = os.path.join(self.test_dir, "hung")
        # Not a plug-in that is loaded before its own is found.
        self.add_plugin("zhangs", HANGS % (flag, hung, self.moment, self.middle))
        self.start_service()
        self.rest()
        connections = []
        for door, _ in BY_DOOR:
            with open(flag, "w"):
                pass
            # More than there are spare workers, so that some clients wait; but one
            # that is given to a worker that hangs would wait for that.
            count = 1 if self.moment == "after_in_child" else 4
            users = (f"{door}{n}" for n in range(count))
            connections += self.serve(*users, doors=[door])
            wait_until(lambda: os.path.exists(hung), "one hangs")
            with open(hung) as file:
                pid = int(file.read())
            os.unlink(hung)
            wait_until(lambda: is_gone(pid), "it was ended")  # noqa: B023
            self.wait_spares()
        self.assertEqual(len(connections), len({each.pid for each in connections}))
        self.assertEqual(len(connections), self.status()["workers"]["busy"])
        self.finish(*connections)
        self.wait_for_order()


class TestSpareWorker(HangingCase):
    scenarios = BY_DOOR

    def test_stopped(self):
        """Spare workers that hang are replaced before a client gets one."""
        self.start_service()
        self.rest()
        stopped = self.spares()
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: all(map(is_gone, stopped)), "they were killed")
        self.wait_for_order()
        self.finish(*self.serve("alice", "bob"))

    def test_service_killed(self):
        """Spare workers that hang when their service is killed are ended."""
        service = self.start_service()
        self.rest()
        stopped = self.spares()
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        service.kill()
        service.wait()
        self.start_service()
        wait_until(lambda: all(map(is_gone, stopped)), "they were killed")
        self.wait_for_order()

    def test_taken_when_stopped(self):
        """The worker is killed, and the client does not wait for it.

        At the socket the client serves the connection itself: no worker has said
        that it has the client's stdio.
        """
        self.configure(
            directory=self.root,
            spare_workers=1,
            max_spare_workers=1,
            connect_timeout=2,
            hangup_timeout=0.5,
        )
        self.start_service()
        self.rest(1)
        (stopped,) = self.spares()
        os.kill(stopped, signal.SIGSTOP)
        client = self.start_client("--door", self.door, "alice")
        out, err = client.communicate(b"hello\n", DEADLINE)
        if self.door == "socket":
            self.assertEqual((HELLO, 0), (out, client.returncode), str(err))
        else:
            self.assertEqual((b"", 137), (out, client.returncode))
            self.assertContainsRe(err, b"the worker was ended by signal 9")
        wait_until(lambda: is_gone(stopped), "it was killed")
        self.rest(1)
        wait_until(
            lambda: self.kinds() == {"service": 1, "zygote": 1, "spare": 1},
            "nothing is left",
        )


class TestUnkillable(LiveTestCase):
    def test_service_ends(self):
        """The service does not wait for processes that the kernel does not end."""
        self.add_plugin("unkillable", UNKILLABLE)
        service = self.start_service()
        self.rest()
        zygote = self.status()["zygote"]
        os.kill(zygote, signal.SIGSTOP)
        self.ask("shutdown", "now")
        self.assertEqual(0, service.wait(DEADLINE))
        self.assertIn("1 processes cannot be killed", self.log_text())
        wait_until(lambda: is_gone(zygote), "it has ended with its parent")
