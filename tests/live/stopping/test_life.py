# SPDX-License-Identifier: GPL-2.0-or-later

"""The life of a service: killed, succeeded, without a zygote, with orphans."""

import contextlib
import os
import shutil
import signal

from ...harness import DEADLINE, DOORS, HELLO, LiveTestCase, wait_until
from ..faults.victims import is_gone, is_running, parent_of, state_of, zombies_of
from ..spawning.test_reset import ProbeCase

#: Holds an actor of a rehearsal (1: the worker, 2: the client) from its fork until
#: its parent has ended, and says who that is; its zygote does not fork again.
HELD = """
import os, sys, time

_zygote, _forks, _held, _path = os.getpid(), 0, %d, %r

def _before():
    global _forks
    _forks += 1
    while _forks > _held:
        time.sleep(1)

def _in_child():
    if _forks == _held:
        with open(_path + ".new", "w") as file:
            file.write(str(_zygote))
        os.rename(_path + ".new", _path)
        while os.getppid() == _zygote:
            time.sleep(0.01)

if "--zygote" in sys.argv:
    os.register_at_fork(before=_before, after_in_child=_in_child)
"""


class TestKilledService(LiveTestCase):
    def test_connections_go_on(self):
        first = self.start_service()
        self.rest()
        opened = self.serve("alice", "bob", "erin", "frank")
        early = self.connect("carol")  # has not opened its FIFOs yet
        first.kill()
        first.wait(DEADLINE)
        for connection in opened[:2]:
            self.assertEqual(HELLO, connection.hello())
            connection.close()
            self.assert_told_nevertheless(connection)
        # A new service in the same directory leaves alone what is alive.
        second = self.start_service()
        self.assertNotEqual(first.pid, second.pid)
        self.assertTrue(os.path.exists(early.paths[0]))
        early.open()
        self.assertEqual(HELLO, early.hello())
        self.finish(*self.serve("dave", "grace"))
        for connection in (*opened[2:], early):
            self.assertEqual(HELLO, connection.hello())
            connection.close()
            self.assert_told_nevertheless(connection)
        wait_until(lambda: self.paths_left() == DOORS, "nothing is left")

    def assert_told_nevertheless(self, connection):
        """The worker itself says how it ended."""
        answer = wait_until(connection.conversation.read_answer, "an answer")
        self.assertEqual(["exit", "0"], answer)
        connection.conversation.close()

    def test_leftovers(self):
        """A new service removes what a service and its workers left."""
        first = self.start_service()
        self.rest()
        waiting = self.connect()
        opened = self.serve("alice", "bob")
        for pid in self.processes():
            # The service's death may have been another's already.
            if pid != os.getpid():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        first.wait(DEADLINE)
        wait_until(lambda: not self.processes(), "all are killed")
        self.assertTrue(os.path.exists(waiting.paths[0]))
        names = (".new-control", ".new-socket", "replies/client.999999999.0a")
        for name in names:
            os.mkfifo(os.path.join(self.runtime, name))
        os.utime(os.path.join(self.runtime, "replies", "client.999999999.0a"))
        for connection in (waiting, *opened):
            connection.close()
            connection.conversation.close()
        self.start_service()
        wait_until(lambda: self.paths_left() == DOORS, "nothing is left")
        self.assertEqual(set(), set(names) & set(os.listdir(self.runtime)))
        self.finish(*self.serve("alice", "bob"))


class TestSuccession(LiveTestCase):
    def test_old_one_leaves_the_door_of_its_successor(self):
        """FAULT 17: a service whose directory was replaced stops, and leaves that."""
        old = self.start_service()
        opened = self.serve("alice", "erin")
        shutil.rmtree(self.runtime)  # as somebody did who thought it was dead
        new = self.start_service()
        self.assertEqual(f"pid={new.pid}", self.ask("hello")[3])
        self.wait_for_log("was removed or replaced: stopping")
        for connection in opened:
            self.assertEqual(HELLO, connection.hello())
            connection.close()
        self.assertEqual(3, old.wait(DEADLINE))
        self.assertEqual(f"pid={new.pid}", self.ask("hello")[3])
        self.finish(*self.serve("bob", "carol"))


class TestZygote(LiveTestCase):
    def test_killed(self):
        """Spare workers still serve; then there is a new generation."""
        self.start_service()
        self.rest()
        zygote = self.status()["zygote"]
        os.kill(zygote, signal.SIGSTOP)  # so that nothing is forked meanwhile
        opened = self.serve("alice")
        os.kill(zygote, signal.SIGKILL)
        opened += self.serve("bob", doors=["socket"])
        # Those who come while there is neither a zygote nor a spare worker wait.
        opened += self.serve("carol", "dave")
        status = self.status()
        self.assertEqual(2, status["generation"])
        self.assertNotEqual(zygote, status["zygote"])
        self.assertEqual(4, status["workers"]["busy"])
        self.assertIn("the zygote has ended: it ended with signal 9", self.log_text())
        self.finish(*opened)
        self.rest()

    def test_threads(self):
        """FAULT 25: a process that forks has one thread; with more it does not fork."""
        self.start_service()
        self.rest()
        opened = self.serve("alice")
        for pid, line in self.processes().items():
            with contextlib.suppress(FileNotFoundError):
                self.assertEqual(1, len(os.listdir(f"/proc/{pid}/task")), line)
        self.add_plugin(
            "threads",
            "import sys, threading\n"
            "if '--zygote' in sys.argv:\n"
            "    threading.Thread(target=threading.Event().wait, daemon=True,"
            " name='of a plug-in').start()\n",
        )
        self.finish(*opened)
        self.stop_service()
        self.configure(spare_workers=0, directory=self.root)
        start = os.path.getsize(self.log_path)
        self.start_service()
        for door in ("fifo", "socket"):
            refused = self.connect(door=door)
            self.assertEqual(["error", "failed"], refused.answer[:2])
            self.assertIn(
                "2 threads are running (MainThread, of a plug-in)", refused.answer[2]
            )
            self.assertIn("cannot fork a worker", self.log_text(start))
            # The client serves the connection itself then.
            itself = self.start_client("--door", door, "alice")
            out, _ = itself.communicate(b"hello\n", DEADLINE)
            self.assertEqual((HELLO, 0), (out, itself.returncode))


class TestRehearsal(LiveTestCase):
    """The zygote or the service is killed during a rehearsal; nobody waits for it."""

    rehearses = True

    def setUp(self):
        super().setUp()
        self.add_plugin("held", "")

    def change(self, source):
        """Change the plug-in."""
        with open(os.path.join(self.plugins["held"], "__init__.py"), "w") as file:
            file.write(source)

    def start_and_hold(self, number):
        """Reload, and hold that actor; the new zygote and its actors."""
        self.start_service()
        path = os.path.join(self.test_dir, "held")
        self.change(HELD % (number, path))
        self.write_control(b"reload\n")
        wait_until(lambda: os.path.exists(path), "an actor is held")
        with open(path) as file:
            zygote = int(file.read())
        actors = [pid for pid in self.processes() if parent_of(pid) == zygote]
        self.assertEqual(number, len(actors))
        return zygote, actors

    def test_zygote_killed_before_worker_runs(self):
        self.check_zygote_killed(1)

    def test_zygote_killed_before_client_runs(self):
        self.check_zygote_killed(2)

    def check_zygote_killed(self, number):
        zygote, actors = self.start_and_hold(number)
        # The service would remove the FIFOs, which may end an actor as well.
        self.service.send_signal(signal.SIGSTOP)
        self.addCleanup(self.service.send_signal, signal.SIGCONT)
        os.kill(zygote, signal.SIGKILL)
        wait_until(lambda: not any(map(is_running, actors)), "the actors have ended")
        self.service.send_signal(signal.SIGCONT)
        self.wait_for_log("generation 2 failed")
        self.finish(*self.serve("alice", "bob"))

    def test_service_killed(self):
        self.start_and_hold(1)
        self.service.kill()
        self.service.wait(DEADLINE)
        wait_until(lambda: not self.processes(), "all have ended")
        self.change("")
        self.start_service()  # clears what they left
        left = [n for n in os.listdir(self.runtime) if n.startswith(".rehearsal-")]
        self.assertEqual([], left)


class TestReaping(LiveTestCase):
    def test_started_with_signals_ignored_and_blocked(self):
        """FAULT 18: there are no zombies, and SIGTERM stops it.

        SIGINT stays ignored. SIGHUP is a request to reload, even under nohup.
        """
        numbers = [signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP]

        def ignore_and_block():
            for number in numbers:
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_BLOCK, numbers)

        service = self.start_service(popen={"preexec_fn": ignore_and_block})
        self.rest()
        for _ in range(2):
            self.finish(*self.serve("alice", "bob"))
        for killed in self.serve("alice", "bob"):
            os.kill(killed.pid, signal.SIGTERM)
            self.assertEqual(["signal", "15"], killed.end())
        self.rest()
        wait_until(lambda: not zombies_of(service.pid), "no zombies")
        service.send_signal(signal.SIGINT)
        service.send_signal(signal.SIGHUP)
        wait_until(lambda: self.status()["generation"] == 2, "it was reloaded")
        self.rest()
        service.terminate()
        self.assertEqual(0, service.wait(DEADLINE))


class TestHooks(ProbeCase):
    def test_processes(self):
        """FAULT 19: what a killed connection started is killed; an orphan is reaped."""
        service = self.start_service()
        self.rest()
        for doors in (("fifo", "socket"), ("socket", "fifo")):
            self.check_processes(service, *self.serve("alice", "bob", doors=doors))
        self.rest()

    def check_processes(self, service, killed, ended):
        hook = int(self.ask_probe(killed, b"sleep"))
        os.kill(killed.pid, signal.SIGKILL)
        self.assertEqual(["signal", "9"], killed.end())
        wait_until(lambda: is_gone(hook), "what the connection started ended")
        # The service adopts an orphan, as a daemon that a hook starts.
        orphan = int(self.ask_probe(ended, b"orphan"))
        wait_until(lambda: parent_of(orphan) == service.pid, "it was adopted")
        self.finish(ended)
        wait_until(lambda: state_of(orphan) == b"S", "it sleeps, unharmed")
        os.kill(orphan, signal.SIGKILL)
        wait_until(lambda: is_gone(orphan), "it was reaped")


class TestLeftBehind(ProbeCase):
    def test_output(self):
        """FAULT 21: output that a client did not read is not sent to the next one."""
        self.start_service()
        self.rest()
        for door in ("fifo", "socket") * 2:
            gone = self.serve("alice", doors=[door])[0]
            os.write(gone.stdin, b"probe.big\n")
            self.assertEqual(b"ok\x01xxx", os.read(gone.stdout, 6))
            gone.close()
            self.assertEqual(["exit", "3"], gone.end())
            there = self.serve("alice", doors=[door])[0]
            os.close(there.stdin)
            there.stdin = -1
            self.assertEqual(b"", os.read(there.stdout, 100))
            self.assertEqual(b"", os.read(there.stderr, 100))
            self.assertEqual(["exit", "0"], there.end())
