# SPDX-License-Identifier: GPL-2.0-or-later

"""'brz lp-serve-ssh' with several processes."""

import os
import re
import signal
import socket

from ....lpserve.sshstate import read_states
from ...harness import DEADLINE, DOORS, wait_until
from . import test_load, test_stopping
from .logincase import BANNER, EndCase


class TestEnd(test_stopping.TestEnd):
    """With two processes, all ends as with one."""

    ssh_processes = 2


class TestMany(test_load.TestMany):
    """With two processes, none is lost, and none waits for another."""

    ssh_processes = 2


class ProcessesCase(EndCase):
    ssh_processes = 2

    def connect_from(self, address):
        made = socket.create_connection(
            ("127.0.0.1", self.server.port), DEADLINE, (address, 0)
        )
        self.addCleanup(made.close)
        return made

    def sockets_of(self, pid):
        """How many connections of SSH a process has."""
        port = f":{self.server.port:04X}"
        with open(f"/proc/{pid}/net/tcp") as table:
            rows = [line.split() for line in table]
        # Established ones (proc_net(5)), and the inodes of their sockets.
        of_ssh = {r[9] for r in rows if r[1].endswith(port) and r[3] == "01"}
        found = 0
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                target = os.readlink(f"/proc/{pid}/fd/{name}")
            except FileNotFoundError:
                continue
            match = re.fullmatch(r"socket:\[(\d+)\]", target)
            found += match is not None and match[1] in of_ssh
        return found

    def wait_for_processes(self, *gone):
        """Until there are two processes without those that are *gone*."""

        def there():
            found = self.server.processes()
            return found if len(found) == 2 and not set(found) & set(gone) else None

        return wait_until(there, "there are two processes")

    def state(self, **wanted):
        """What lp-serve-ssh tells in its file, once it is this."""

        def told():
            states = read_states(self.runtime)
            if len(states) != 1:
                return None
            found = vars(states[0])
            return found if wanted.items() <= found.items() else None

        return wait_until(told, f"lp-serve-ssh tells {wanted}")


class TestProcesses(ProcessesCase):
    def test_shared(self):
        """Connections are shared out; one file tells of all; a reload is for all."""
        self.begin()
        talking = [self.start_talking() for _ in range(4)]
        pids = self.wait_for_processes()
        self.assertEqual([2, 2], [self.sockets_of(pid) for pid in pids])
        self.assertEqual(0, self.sockets_of(self.server.pid))
        counts = {"logging_in": 0, "logged_in": 4}
        state = self.state(connections=counts, sessions=4)
        self.assertEqual((4, True), (state["logins"]["accepted"], state["up"]))
        self.configure(environment="BRZ_EMAIL", keepalive_interval=0.2)
        start = self.server.log_size()
        self.hang_up()
        # Each of the processes now wants signs of life.
        stopped = [self.start_talking(), self.start_talking()]
        self.assertEqual([3, 3], [self.sockets_of(pid) for pid in pids])
        for each in stopped:
            each.send_signal(signal.SIGSTOP)
        for record in self.server.wait_for_records(2, start):
            self.assertIn("(the client does not answer)", record["exit"])
        for each in stopped:
            each.send_signal(signal.SIGCONT)
            each.wait(DEADLINE)
        for each in talking:
            self.finish(each)
        self.assertEqual(pids, self.server.processes())
        self.state(connections={"logging_in": 0, "logged_in": 0}, sessions=0)

    def test_killed(self):
        """A process is killed: its connections alone are lost, and it is replaced."""
        self.begin()
        talking = [self.start_talking() for _ in range(4)]
        half = [self.connect_raw() for _ in range(2)]
        for each in half:
            self.assertEqual(BANNER, each.recv(len(BANNER)))
        pids = self.wait_for_processes()
        self.assertEqual([3, 3], [self.sockets_of(pid) for pid in pids])
        os.kill(pids[0], signal.SIGKILL)
        self.server.wait_for_log(
            rf"SSH process {pids[0]} has ended \(signal 9\), and with it its "
            r"connections: 3"
        )
        self.wait_for_processes(pids[0])
        wait_until(lambda: sum(p.poll() == 255 for p in talking) == 2, "two are lost")
        left = [each for each in talking if each.poll() is None]
        self.assertEqual(2, len(left))
        self.state(connections={"logging_in": 1, "logged_in": 2}, sessions=2)
        new = [self.start_talking() for _ in range(3)]
        for each in (*left, *new):
            self.finish(each)
        # Both at once: new connections wait until there is one again.
        both = self.wait_for_processes(pids[0])
        for pid in both:
            os.kill(pid, signal.SIGKILL)
        for pid in both:
            self.server.wait_for_log(rf"SSH process {pid} has ended \(signal 9\)")
        self.finish(self.start_talking())
        for each in half:
            each.close()
        self.state(connections={"logging_in": 0, "logged_in": 0}, sessions=0)
        self.wait_for_processes(pids[0])
        self.server.wait_until_at_rest()

    def test_front_killed(self):
        """The processes end with the front."""
        self.begin()
        process = self.start_talking()
        self.wait_for_processes()
        self.server.kill()
        self.assertEqual(255, process.wait(DEADLINE))
        # The service finds what nobody could remove.
        self.rest()
        wait_until(lambda: self.paths_left() == DOORS, "nothing is left")

    def test_signals_for_the_front(self):
        """A signal to all of them, as Ctrl-C sends, ends nothing twice."""
        self.begin()
        process = self.start_talking()
        for pid in (*self.wait_for_processes(), self.server.pid):
            os.kill(pid, signal.SIGINT)
        self.server.wait_for_log("stopping; sessions that may finish: 1")
        self.finish(process)
        self.assertEqual(0, self.server.wait())

    def test_limits(self):
        """Limits and penalties hold for all processes together."""
        words = "noauth:100s min:150s"
        self.configure(per_source_penalties=words, per_source_max_startups=3)
        self.start_server()
        opened = [self.connect_from("127.0.0.2") for _ in range(3)]
        for each in opened:
            self.assertEqual(BANNER, each.recv(len(BANNER)))
        self.assertEqual(b"", self.connect_from("127.0.0.2").recv(1))
        reason = "past per_source_max_startups"
        self.server.wait_for_log(rf"drop connection #1 from 127\.0\.0\.2:\d+: {reason}")
        pids = self.wait_for_processes()
        self.assertEqual([1, 2], sorted(self.sockets_of(pid) for pid in pids))
        # Two faults, which are seen by different processes.
        for number, each in enumerate(opened[:2], 1):
            each.close()
            self.server.wait_for_records(number)
        self.server.wait_for_log(r"127\.0\.0\.2 is refused for (200|199) s: ")
        self.assertEqual(b"", self.connect_from("127.0.0.2").recv(1))
        self.assertIn_("now")


class TestStart(ProcessesCase):
    def test_cannot_start(self):
        """A process that ends before it is ready: the server does not start."""
        self.configure()
        plugin = os.path.join(self.test_dir, "odd")
        os.mkdir(plugin)
        with open(os.path.join(plugin, "__init__.py"), "w") as file:
            file.write("import os, sys\nif '--process' in sys.argv: os._exit(7)\n")
        words = ["--listen=127.0.0.1:0", f"--host-key={self.server.host_key}"]
        words += [f"--authorized-keys={self.server.keys}"]
        plugins = f"{self.env['BRZ_PLUGINS_AT']}:odd@{plugin}"
        command = self.brz("lp-serve-ssh", *words)
        done = self.run_program(command, BRZ_PLUGINS_AT=plugins)
        self.assertEqual(3, done.returncode)
        said = "brz: ERROR: cannot start a process of lp-serve-ssh: status 7\n"
        self.assertEqual(said, done.stderr.decode().splitlines(True)[-1])
