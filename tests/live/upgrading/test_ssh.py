# SPDX-License-Identifier: GPL-2.0-or-later

"""An upgrade of lp-serve-ssh: another process accepts, the old one finishes."""

import os
import shutil
import signal
import sys
import threading
import time

from ....lpserve.sshstate import LOGINS, read_states
from ...harness import DEADLINE, DOORS, PLUGIN, read_line, wait_until
from ...processes import title_of
from ..ssh.logincase import BANNER, EndCase
from ..ssh.sshcase import HELLO
from . import loadcase

#: How many logins begin in a second.
RATE = 5


UPGRADES = loadcase.UPGRADES or 3


class SshUpgradeCase(EndCase):
    """A test that upgrades an lp-serve-ssh.

    :ivar front: the pid of the process that accepts connections.
    """

    def begin(self, **options):
        super().begin(**options)
        self.front = self.server.pid
        # Before others look whether the first process is at rest: it is not the last.
        self.addCleanup(self.end_server)

    def end_server(self):
        """Stop it; nothing is left of any of its processes."""
        if self.server.running():
            self.assertEqual(0, self.server.stop())
        wait_until(lambda: not self.of_ssh(), "all processes have ended")

    def of_ssh(self):
        """The processes of all upgrades: pid to title."""
        found = {pid: title_of(pid) for pid in self.processes()}
        ours = ("lp-serve-ssh", "lp-ssh-before", "lp-ssh-process")
        return {pid: title for pid, title in found.items() if title in ours}

    def upgrade(self, number=signal.SIGUSR2):
        """Upgrade by this signal; the pids of the fronts before and after."""
        before, start = self.front, self.server.log_size()
        self.server.signal(number)
        found = self.server.wait_for_log(r"process (\d+) serves now", start)
        self.front = int(found[1])
        return before, self.front

    def refuse(self, why, number=signal.SIGUSR2):
        """An upgrade fails, and all goes on."""
        start = self.server.log_size()
        held = self.start_talking()
        self.server.signal(number)
        self.server.wait_for_log(f"ERROR cannot upgrade: {why}", start)
        self.finish(held)
        self.finish(self.start_talking())

    def install(self):
        """Have what is started use a copy of the plug-in; its path."""
        place = os.path.join(self.test_dir, "installed")
        wanted = shutil.ignore_patterns("__pycache__", "tests", "benchmarks", ".*")
        shutil.copytree(PLUGIN, place, ignore=wanted)
        self.plugins["lpserve"] = place
        return os.path.join(place, "lpserve", "ssh")

    def change(self, name, old, new):
        """Change a module of that copy."""
        path = os.path.join(self.place, name)
        with open(path) as file:
            text = file.read()
        self.assertIn(old, text)
        with open(path, "w") as file:
            file.write(text.replace(old, new))

    def wait_gone(self, pid):
        """Wait until a front has ended."""
        wait_until(lambda: pid not in self.of_ssh(), f"{pid} has ended")

    def wait_following(self):
        """Wait until the first front has nothing left but to wait for the others."""
        name = "lp-ssh-before"
        wait_until(lambda: title_of(self.server.pid) == name, "it follows")

    def state(self, **wanted):
        """What lp-serve-ssh tells in its file, once it is this."""

        def told():
            states = read_states(self.runtime)
            if len(states) != 1:
                return None
            found = vars(states[0])
            return found if wanted.items() <= found.items() else None

        return wait_until(told, f"lp-serve-ssh tells {wanted}")


class TestLoad(SshUpgradeCase):
    """Clients log in all the time: nobody is refused, nobody is cut."""

    def test_load(self):
        self.begin()
        self.over = threading.Event()
        self.faults, self.first_bytes = [], []
        held = self.start_talking()
        threads = [threading.Thread(target=self.guard) for _ in range(2)]
        for each in threads:
            each.start()
        try:
            pids = {self.front}
            for number in range(UPGRADES):
                pids.add(self.upgrade()[1])
                self.say_hello(held)
                # Some, between two upgrades, that have begun after the first.
                wanted = len(self.first_bytes) + RATE
                wait_until(
                    lambda wanted=wanted: len(self.first_bytes) > wanted or self.faults,
                    f"logins after {number + 1} upgrades",
                )
        finally:
            self.over.set()
            for each in threads:
                each.join(DEADLINE)
        self.assertEqual([], self.faults)
        self.assertEqual(UPGRADES + 1, len(pids))
        print(
            f"{self.ssh_processes} SSH processes, upgrades: {UPGRADES}, "
            f"{len(self.first_bytes)} logins, longest first byte "
            f"{max(self.first_bytes) * 1000:.0f} ms",
            file=sys.stderr,
        )
        count = len(self.first_bytes) + 1
        self.server.wait_for_records(count - 1)
        logins = {**dict.fromkeys(LOGINS, 0), "accepted": count}
        now = {"logging_in": 0, "logged_in": 1}
        self.state(sessions=1, connections=now, logins=logins)
        # Only the first, which has the session, and the last are left.
        for pid in pids - {self.server.pid, self.front}:
            self.wait_gone(pid)
        self.finish(held)
        self.wait_following()

    def guard(self):
        try:
            while not self.over.is_set():
                began = time.monotonic()
                process = self.start_ssh()
                os.write(process.stdin.fileno(), b"hello\n")
                line = read_line(process.stdout.fileno())
                self.first_bytes.append(time.monotonic() - began)
                process.stdin.close()
                errors = process.stderr.read()
                status = process.wait(DEADLINE)
                if (line, status) != (HELLO, 0):
                    raise AssertionError(f"{line!r}, {status}: {errors!r}")
                # The rate is what this test is about.
                time.sleep(max(0.0, began + 2 / RATE - time.monotonic()))
        except BaseException as error:
            self.faults.append(f"{type(error).__name__}: {error}")


class TestLoadOfProcesses(TestLoad):
    """The same with several SSH processes, which end with their last connection."""

    ssh_processes = 2


class TestStop(SshUpgradeCase):
    """A stop is for all fronts; whoever has started the first knows no other."""

    def begin_both(self):
        """A session of the first front, and one of the second."""
        self.begin()
        first, half = self.start_talking(), self.open_transport()
        self.upgrade()
        # Who has begun to log in goes on with the first, and is not waited for later.
        self.present_key(half, "alice")
        self.assertServes(half)
        second = self.start_talking()
        self.state(sessions=2)
        return first, second

    def stop(self):
        """Tell all to stop, as pkill does; that is told once."""
        start = self.server.log_size()
        for pid in (self.server.pid, self.front):
            os.kill(pid, signal.SIGTERM)
        self.server.wait_for_log("stopping; sessions that may finish: 2\n", start)
        self.assertRaises(ConnectionRefusedError, self.connect_raw)

    def test_graceful(self):
        first, second = self.begin_both()
        self.stop()
        self.finish(second)
        self.finish(first)
        self.assertEqual(0, self.server.wait())

    def test_twice(self):
        first, second = self.begin_both()
        self.stop()
        self.server.signal(signal.SIGTERM)
        self.assertEqual([255] * 2, [each.wait(DEADLINE) for each in (first, second)])
        self.assertEqual(0, self.server.wait())

    def test_hanging(self):
        """Another front does not answer, and is killed when all are told twice."""
        self.begin()
        _, second = self.upgrade()
        held = self.start_talking()
        self.upgrade()
        self.wait_following()
        os.kill(second, signal.SIGSTOP)
        start = self.server.log_size()
        for _ in range(2):
            self.server.signal(signal.SIGTERM)
            self.server.wait_for_log("stopping; sessions that may finish: 1", start)
        self.assertEqual(0, self.server.wait())
        self.assertEqual(255, held.wait(DEADLINE))
        # The service finds what nobody could remove.
        wait_until(lambda: self.paths_left() == DOORS, "nothing is left")

    def test_during(self):
        """An upgrade has begun, and a stop comes before it is ready."""
        self.begin()
        held = self.start_talking()
        start = self.server.log_size()
        self.server.signal(signal.SIGUSR2)
        self.server.wait_for_log("upgrade, asked for by SIGUSR2", start)
        self.server.signal(signal.SIGTERM)
        self.server.wait_for_log("stopping; sessions that may finish: 1", start)
        self.finish(held)
        self.assertEqual(0, self.server.wait())

    def test_before(self):
        """The new one is told to stop when it has only just come up."""
        self.place = self.install()
        self.begin()
        told = 'self._first.tell("ready"'
        self.change("upgrades.py", told, f"self._front.signalled(15); {told}")
        # Without a session it is not waited for.
        idle = self.log_in()
        held = self.start_talking()
        self.upgrade()
        wait_until(lambda: not idle.is_active(), "the old one has stopped too")
        self.finish(held)
        self.assertEqual(0, self.server.wait())


class TestStopOfProcesses(TestStop):
    """The same with several SSH processes."""

    ssh_processes = 2


class TestKilled(SshUpgradeCase):
    """A front is killed: its own connections are lost."""

    def test_old(self):
        self.begin()
        held = self.start_talking()
        _, second = self.upgrade()
        lost = self.start_talking()
        half = self.connect_raw()
        self.assertEqual(BANNER, half.recv(len(BANNER)))
        self.state(sessions=2, connections={"logging_in": 1, "logged_in": 2})
        self.upgrade()
        os.kill(second, signal.SIGKILL)
        self.assertEqual(255, lost.wait(DEADLINE))
        self.state(sessions=1, connections={"logging_in": 0, "logged_in": 1})
        self.finish(self.start_talking())
        self.finish(held)

    def test_new(self):
        """The old one finishes, and then tells whoever has started it."""
        self.begin()
        held = self.start_talking()
        _, second = self.upgrade()
        os.kill(second, signal.SIGKILL)
        self.server.wait_for_log("the process that has taken over has ended")
        # It has nothing to hand over any more.
        self.server.signal(signal.SIGUSR2)
        self.hang_up()
        self.finish(held)
        self.assertEqual(3, self.server.wait())


class TestState(SshUpgradeCase):
    """What is told of lp-serve-ssh goes on, and what it remembers of clients."""

    def begin(self):
        self.allowance = "authfail:200s noauth:200s min:150s"
        super().begin(per_source_penalties=self.allowance, per_source_max_startups=1)

    def come(self):
        """A client that has begun to log in."""
        made = self.connect_raw()
        self.assertEqual(BANNER, made.recv(len(BANNER)))
        return made

    def test_state(self):
        self.begin()
        self.finish(self.start_talking())
        half = self.come()
        before = self.state(connections={"logging_in": 1, "logged_in": 0})
        self.upgrade()
        # The one that the first front has still counts for its source.
        self.assertEqual(b"", self.connect_raw().recv(1))
        half.close()
        self.server.wait_for_log(r"127\.0\.0\.1 is refused for (200|199) s: ")
        self.upgrade()
        start = self.server.log_size()
        self.assertEqual(b"", self.connect_raw().recv(1))
        self.server.wait_for_log("penalty: connections without attempting", start)
        more = {"per_source_max_startups": 1, "penalty": 1}
        after = self.state(drops={**before["drops"], **more})
        self.assertEqual(
            (1, 1), (after["logins"]["accepted"], after["logins"]["noauth"])
        )
        self.assertEqual(1, after["penalties"]["noauth"])
        self.assertEqual(before["started"], after["started"])


class TestFailed(SshUpgradeCase):
    """The new code does not come up: the old goes on, and says why."""

    def stop_server(self):
        """See `ConchTestCase`; here it has found something wrong."""

    def test_failed(self):
        self.place = self.install()
        self.begin()
        # A reload is none of an upgrade while nothing has changed.
        self.hang_up()
        last = "def _begins_version"
        self.change("transport.py", last, f"raise ImportError('half')\n{last}")
        self.refuse("it ended before it was ready", signal.SIGHUP)
        self.assertIn("ImportError: half", self.server.log())
        self.change("transport.py", "raise ImportError('half')\n", "")
        self.configure(max_startups="many")
        self.refuse('Bad value "many" for option "lpserve.max_startups"')
        self.configure()
        self.change("predecessor.py", "FORMAT = 1", "FORMAT = 99")
        self.refuse("format 1 of the document, not 99: restart lp-serve-ssh")
        self.change("predecessor.py", "FORMAT = 99", "FORMAT = 1")
        # About to serve: the socket is left to it already.
        self.change("predecessor.py", "self._owner.go()", "os.kill(os.getpid(), 9)")
        self.refuse("it ended before it was ready")
        self.change("predecessor.py", "os.kill(os.getpid(), 9)", "self._owner.go()")
        # What has changed is the time of the file.
        self.upgrade(signal.SIGHUP)
        self.finish(self.start_talking())


class TestFailedProcesses(TestFailed):
    """The same with several SSH processes; these do not start either."""

    ssh_processes = 2
