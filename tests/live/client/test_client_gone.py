# SPDX-License-Identifier: GPL-2.0-or-later

"""Clients that go away: what is done, and what it is counted as."""

import os
import signal

from breezy.tests.scenarios import load_tests_apply_scenarios

from ...harness import BY_DOOR, LiveTestCase, wait_until
from ..warm.warmcase import WarmCase

load_tests = load_tests_apply_scenarios

HELLO = b"ok\x012\n"


class TestCounted(LiveTestCase):
    """A client that goes away is no failure of the service."""

    scenarios = BY_DOOR

    def assertCounted(self, **wanted):
        """So many connections have ended in each way."""

        def counted():
            totals = self.status()["totals"]
            found = {name: totals[name] for name in ("ended", "gone", "failed")}
            return found == {"ended": 0, "gone": 0, "failed": 0, **wanted}

        wait_until(counted, f"they are counted as {wanted}")

    def serve(self):
        connection = self.connect().open()
        self.assertEqual(HELLO, connection.hello())
        return connection

    def test_counted(self):
        self.configure(connect_timeout=1, hangup_timeout=0.2)
        self.start_service()
        # It does not wait for its answer.
        connection = self.connect().open()
        os.close(connection.stdout)
        connection.stdout = -1
        os.write(connection.stdin, b"hello\n")
        self.assertEqual(["exit", "3"], connection.end())
        connection.close()
        self.assertCounted(gone=1)
        # It went before it was there.
        if self.door == "fifo":
            connection = self.connect()
            self.assertEqual(["exit", "75"], connection.end())
        else:
            connection = self.serve()
            os.kill(connection.pid, signal.SIGSTOP)
            connection.conversation.close()
            # Neither SIGHUP nor SIGTERM ends one that is stopped.
            wait_until(lambda: not os.path.exists(f"/proc/{connection.pid}"), "killed")
        self.assertCounted(gone=2)
        # It says good bye.
        connection = self.serve()
        connection.close()
        self.assertEqual(["exit", "0"], connection.end())
        self.assertCounted(gone=2, ended=1)
        # It is still there.
        connection = self.serve()
        os.kill(connection.pid, signal.SIGTERM)
        self.assertEqual(["signal", "15"], connection.end())
        self.assertCounted(gone=2, ended=1, failed=1)
        table = self.run_brz("lp-serve-control", "status").stdout.decode()
        self.assertContainsRe(table, "1 ended, 2 gone, 1 failed, 0 evicted, 0 faults")


#: Has a worker wait before it leaves, for as long as there is a file: it looks every
#: 5 ms.
SLOW_LEAVE = """
import os, time
from breezy.plugins.lpserve.lpserve.zygote import worker

def leave(*given, real=worker._leave):
    hold = os.environ["HOLD"]
    if os.path.exists(hold):
        open(f"{hold}-{os.getpid()}", "w").close()
    while os.path.exists(hold):
        time.sleep(0.005)  # until the test removes the file
    real(*given)

worker._leave = leave
"""


class TestHungUpAtTheEnd(LiveTestCase):
    scenarios = BY_DOOR

    def test_ends_as_it_would(self):
        """FAULT 64: SIGHUP, when it has served its client, does not end a worker."""
        hold = os.path.join(self.test_dir, "hold")
        self.add_plugin("slow", SLOW_LEAVE)
        self.start_service(HOLD=hold)
        connection = self.connect().open()
        self.assertEqual(HELLO, connection.hello())
        with open(hold, "w"):
            pass
        connection.close()  # its stdio only
        leaving = f"{hold}-{connection.pid}"
        wait_until(lambda: os.path.exists(leaving), "it leaves")
        os.kill(connection.pid, signal.SIGHUP)
        os.remove(hold)
        self.assertEqual(["exit", "0"], connection.end())
        self.wait_for_totals(ended=1, gone=0, failed=0)


class TestReported(WarmCase):
    """FAULT 64: what it used is kept in memory although it left in a hurry."""

    scenarios = BY_DOOR

    def test_reported(self):
        tip = self.make_branch("a")
        self.start_warm()
        asker, made = self.warm_client()
        asker.parent_map("a", tip)
        made.conversation.close()
        asker.close()
        self.wait_state("a", "warm")
        self.assertEqual(1, self.entry("a")["uses"])
