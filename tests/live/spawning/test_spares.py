# SPDX-License-Identifier: GPL-2.0-or-later

"""Spare workers: how many there are, and that nobody can tell them from new ones."""

import glob
import json
import os
import signal

from ...harness import LiveTestCase, read_line, wait_until
from ..faults.victims import kind_of
from .test_reset import ProbeCase

HELLO = b"ok\x012\n"
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
            time.sleep(0.005)
    real(self)

serving.PipeMedium.serve = serve
"""


class SparesCase(LiveTestCase):
    def spares(self):
        """The pids of the spare workers."""
        return [pid for pid in self.processes() if kind_of(pid)[0] == "spare"]

    def finish(self, connection):
        self.assertEqual(HELLO, connection.open().hello())
        connection.close()
        self.assertEqual(["exit", "0"], connection.end())


class TestPool(SparesCase):
    """How many there are."""

    def test_demand(self):
        """They grow with demand, up to what may be, and shrink when it is over."""
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
        # And without: every connection has its worker forked for it.
        self.configure(spare_workers=0)
        self.assertEqual(["ok"], self.ask("reload"))
        self.rest(0)
        self.check_burst(10)
        self.rest(0)

    def check_burst(self, count):
        """Many at once: none fails because there are few spare workers."""
        asked = [self.ask_worker(f"user{n}", DOORS[n % 2]) for n in range(count)]
        for connection in asked:
            self.assertEqual("ok", connection.wait()[0], connection.answer)
        pids = {connection.pid for connection in asked}
        self.assertEqual(count, len(pids))
        for connection in asked:
            self.finish(connection)
            connection.conversation.close()

    def test_killed_and_stopped(self):
        """What becomes of spare workers is nobody's trouble."""
        self.configure(spare_workers=2, max_spare_workers=2)
        self.start_service()
        before = self.rest(2)
        killed, _ = self.ready_spares()
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: len(set(self.spares()) - {killed}) == 2, "another one")
        self.rest(2, before)
        # Whoever gets one that is stopped has to wait, as with any process.
        for door in DOORS:
            stopped = self.ready_spares()
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            asked = self.ask_worker(door=door)
            self.rest_beside(1)
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
            self.assertEqual("ok", asked.wait()[0])
            self.assertIn(asked.pid, stopped)
            self.finish(asked)
            self.rest(2, before)
        # One that does not end when it is not needed any more is ended.
        stopped = self.ready_spares()[0]
        os.kill(stopped, signal.SIGSTOP)
        self.assertEqual(["ok"], self.ask("reload"))
        wait_until(lambda: not os.path.exists(f"/proc/{stopped}"), "it was ended")
        self.rest(2, before)

    def ready_spares(self):
        """Those that have nothing more to do, as ps(1) shows."""

        def ready():
            found = self.spares()
            titles = []
            for pid in found:
                with open(f"/proc/{pid}/comm") as comm:
                    titles.append(comm.read())
            return found if titles == ["lp-spare\n"] * 2 else None

        return wait_until(ready, "two spare workers are ready")

    def rest_beside(self, busy):
        def rested():
            workers = self.status()["workers"]
            return workers["busy"] == busy and not workers["starting"]

        wait_until(rested, f"{busy} are busy")


class TestPractice(SparesCase):
    """A spare worker gets its connection while it goes through that of nobody."""

    def test_signals(self):
        """FAULT 68: one that comes before the connection is served is not lost.

        It used to go to the practice: SIGHUP ended that, and the client waited for
        the end of a worker that had not heard of it; SIGINT was a failure.
        """
        hold = os.path.join(self.test_dir, "hold")
        self.add_plugin("slow", SLOW_PRACTICE)
        self.configure(spare_workers=1, max_spare_workers=1)
        self.start_service(HOLD=hold)
        before = self.rest(1)
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            (ready,) = wait_until(self.spares, "one has practised")
            with open(hold, "w"):
                pass
            os.kill(ready, signal.SIGKILL)
            name = wait_until(lambda: glob.glob(f"{hold}-*"), "one practises")[0]
            # Else the connection has another one forked.
            wait_until(
                lambda: self.status()["workers"]["spare"] == 1,
                "the service knows of it",
            )
            connection = self.connect()
            self.assertEqual(f"{hold}-{connection.pid}", name)
            os.kill(connection.pid, number)
            os.unlink(hold)
            os.unlink(name)
            self.assertEqual(["signal", str(int(number))], connection.end())
            self.rest(1, before)


class TestSettings(SparesCase, ProbeCase):
    """What an operator changes."""

    def start_configured(self):
        """A service that has everything from breezy.conf."""
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
        """The very next connection has it, although others were ready."""
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
            self.finish_asked(connection)
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
            self.finish_asked(connection)
        # A directory that comes and goes while workers are ready for it.
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
        self.finish_asked(connection)

    def finish_asked(self, connection):
        connection.close()
        self.assertEqual(["exit", "0"], connection.end())

    def test_directory_of_each(self):
        for user in ("alice", "bob"):
            os.makedirs(os.path.join(self.root, user, user))
        self.configure(directory=os.path.join(self.root, "%u"))
        self.start_configured()
        self.rest(2)
        for door in DOORS:
            for user, other in (("alice", "bob"), ("bob", "alice")):
                connection = self.connect(user, door).open()
                self.assertEqual("yes", self.ask_server(connection, "has", user))
                self.assertEqual("no", self.ask_server(connection, "has", other))
                self.finish_asked(connection)
            gone = self.connect("carol", door).open()
            self.assertEqual(["exit", "3"], gone.end())
            self.assertIn(b"there is no directory", os.read(gone.stderr, 4096))
