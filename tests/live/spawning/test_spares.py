# SPDX-License-Identifier: GPL-2.0-or-later

"""Spare workers: how many there are, and that nobody can tell them from new ones."""

import glob
import json
import os
import signal

from ...harness import LiveTestCase, read_line, wait_until
from ...processes import title_of
from ..faults.victims import is_gone, kind_of
from .test_reset import ProbeCase

DOORS = ("fifo", "socket")

#: A plug-in with which workers that practise wait as long as there is a certain file:
#: nothing tells them when it goes, so they look every 5 ms.
SLOW_PRACTICE = """
import os, time
from breezy.plugins.lpserve.lpserve.serving import smartserver as serving

def serve(self, real=serving.PipeMedium.serve):
    hold = os.environ["HOLD"]
    if self._in.fileno() and os.path.exists(hold):
        open(f"{hold}-{os.getpid()}", "w").close()
        while os.path.exists(hold):
            time.sleep(0.005)  # until the test removes the file
    real(self)

serving.PipeMedium.serve = serve
"""


class SparesCase(LiveTestCase):
    def spares(self):
        """The pids of the spare workers."""
        return [pid for pid in self.processes() if kind_of(pid)[0] == "spare"]

    def practised(self):
        """The pids of the spare workers that have practised, and now wait."""
        return [pid for pid in self.spares() if title_of(pid) == "lp-spare"]


class TestPool(SparesCase):
    """How many there are."""

    def test_demand(self):
        """There are more with demand, up to max_spare_workers, and fewer after it."""
        self.configure(spare_workers=2, max_spare_workers=6)
        self.start_service()
        before = self.rest(2)

        def grown():
            self.check_burst(8)
            found = self.status()["workers"]["spare"]
            self.assertTrue(found <= 6, found)
            return found > 2

        wait_until(grown, "there are more spare workers")
        self.rest(2, before)
        self.check_burst(60)
        self.rest(2, before)
        totals = self.status()["totals"]
        self.assertEqual((0, 0), (totals["failed"], totals["faults"]))
        # Without spare workers each connection has a worker forked for it.
        self.configure(spare_workers=0)
        self.assertEqual(["ok"], self.ask("reload"))
        self.rest(0)
        self.check_burst(10)
        self.rest(0)

    def check_burst(self, count):
        """Make many connections at once; all of them are served."""
        asked = [self.ask_worker(f"user{n}", DOORS[n % 2]) for n in range(count)]
        for connection in asked:
            self.assertEqual("ok", connection.wait()[0], connection.answer)
        pids = {connection.pid for connection in asked}
        self.assertEqual(count, len(pids))
        for connection in asked:
            self.finish(connection.open())
            connection.conversation.close()

    def test_stopped(self):
        """A spare worker that is not needed any more is ended, if need be killed."""
        self.start_service()
        before = self.rest(2)
        stopped = wait_until(self.practised, "one has practised")[0]
        os.kill(stopped, signal.SIGSTOP)
        self.assertEqual(["ok"], self.ask("reload"))
        wait_until(lambda: is_gone(stopped), "it was ended")
        self.rest(2, before)


class TestPractice(SparesCase):
    """A spare worker gets its connection while it still practises."""

    def test_signals(self):
        """FAULT 68: a signal that comes before the connection is served is not lost.

        The practice used to get it: SIGHUP ended the practice alone, so that the
        client waited for ever, and SIGINT was reported as a failure.
        """
        hold = os.path.join(self.test_dir, "hold")
        self.add_plugin("slow", SLOW_PRACTICE)
        self.configure(spare_workers=1, max_spare_workers=1)
        self.start_service(HOLD=hold)
        before = self.rest(1)
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            (ready,) = wait_until(self.practised, "one has practised")
            with open(hold, "w"):
                pass
            os.kill(ready, signal.SIGKILL)
            name = wait_until(lambda: glob.glob(f"{hold}-*"), "one practises")[0]
            # Otherwise another worker would be forked for the connection.
            wait_until(
                lambda: self.status()["workers"]["spare"] == 1,
                "the service knows of it",
            )
            connection = self.connect()
            self.assertEqual(f"{hold}-{connection.pid}", name)
            os.kill(connection.pid, number)
            os.unlink(hold)
            self.assertEqual(["signal", str(int(number))], connection.end())
            self.rest(1, before)
            # The worker that was forked for the next connection may have one, too.
            for each in glob.glob(f"{hold}-*"):
                os.unlink(each)


class TestSettings(SparesCase, ProbeCase):
    """What an operator changes."""

    def start_configured(self):
        """Start a service that reads everything from breezy.conf."""
        words, self.brz = self.brz, self.without_options
        try:
            self.start_service()
        finally:
            self.brz = words

    def without_options(self, *words):
        words = [w for w in words if w not in ("--directory", self.root)]
        return ProbeCase.brz(self, *(w for w in words if w != "--allow-writes"))

    def ask_server(self, connection, *words):
        os.write(connection.stdin, "\x01".join(words).encode() + b"\n")
        return read_line(connection.stdout).decode().strip().split("\x01")[0]

    def test_reload(self):
        """The next connection has the new settings, although it has a spare worker."""
        other = os.path.join(self.test_dir, "other")
        for path in (os.path.join(self.root, "here"), os.path.join(other, "there")):
            os.makedirs(path)
        self.configure(directory=self.root)
        self.start_configured()
        self.rest(2)
        for door in DOORS:
            connection = self.connect(door=door).open()
            self.assertEqual("yes", self.ask_server(connection, "has", "here"))
            made = self.ask_server(connection, "mkdir", "made", "")
            self.assertEqual("ReadOnlyError", made)
            self.finish(connection)
            denied = self.connect(door=door, PROBE="1").answer
            self.assertEqual(["error", "denied"], denied[:2])
        self.rest(2)
        self.configure(directory=other, allow_writes=True, environment="PROBE")
        self.assertEqual(["ok"], self.ask("reload"))
        for door in DOORS:
            connection = self.connect(door=door, PROBE="1").open()
            self.assertEqual("no", self.ask_server(connection, "has", "here"))
            self.assertEqual("yes", self.ask_server(connection, "has", "there"))
            made = self.ask_server(connection, "mkdir", door, "")
            self.assertEqual("ok", made)
            environ = json.loads(self.ask_probe(connection, b"state"))["environ"]
            self.assertEqual("1", environ["PROBE"])
            self.assertEqual("alice", environ["BRZ_EMAIL"])
            self.finish(connection)
        # The directory is removed and made again while workers are spare.
        self.rest(2)
        os.rename(other, other + ".away")
        for door in DOORS:
            gone = self.connect(door=door).open()
            self.assertEqual(["exit", "3"], gone.end())
            told = os.read(gone.stderr, 4096).decode()
            self.assertEqual(
                f"lp-serve: there is no directory {other} to serve\n", told
            )
        self.rest(2)
        os.mkdir(other)
        connection = self.connect().open()
        self.assertEqual("no", self.ask_server(connection, "has", "there"))
        self.finish(connection)
