# SPDX-License-Identifier: GPL-2.0-or-later

"""'brz lp-serve-client' and 'lp-serve-client': what a user sees of them."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys

from breezy.tests.scenarios import load_tests_apply_scenarios

from ..harness import DEADLINE, PLUGIN
from ..live.client.fake_service import DOORS, HELLO, ClientTestCase, FakeService

load_tests = load_tests_apply_scenarios

#: A Breezy that says how it was started.
_BESIDE = """
import os, sys
numbers = sorted(map(int, os.listdir("/proc/self/fd")))[:-1]
blocked = [line.split() for line in open("/proc/self/status") if "SigBlk" in line]
print(f"{' '.join(sys.argv[1:])}, {numbers}, {' '.join(*blocked)}")
"""


class TestService(ClientTestCase):
    """With a service: the exit codes."""

    # "brz" is in Python, too, and goes to the socket.
    scenarios = [each for each in DOORS if each[0] != "stand-alone, socket"]

    def test_served(self):
        """Nothing but the protocol on stdout, nothing at all on stderr."""
        self.start_service()
        self.assertServed(self.run_client("alice", "--no-fallback"))
        there = ["--no-fallback", "--runtime-dir", self.runtime, "alice"]
        self.assertServed(self.run_client(*there, LPSERVE_RUNTIME_DIR="/nowhere"))
        self.assertServed(
            self.run_client(
                "alice", SSH_ORIGINAL_COMMAND="bzr serve --inet --directory=/"
            )
        )
        self.assertEqual(3, self.status()["totals"]["spawned"])
        for user in ("a/b", "", "x" * 65):
            self.assertEnds(self.run_client(user), 64, "USER")
        self.check_denied()

    def check_denied(self):
        """The client is told to pass what the service does not allow."""
        self.configure(environment="LANG,LD_PRELOAD")
        self.assertServed(self.run_client("alice"))
        self.assertEnds(
            self.run_client("alice", LD_PRELOAD=""), 77, "denied: ", "LD_PRELOAD"
        )

    def test_status_of_the_worker(self):
        self.start_service("--directory", self.root + "/%u")
        done = self.run_client("alice", "--no-fallback")
        self.assertEnds(done, 3, "there is no directory", "root/alice")

    def test_busy(self):
        self.configure(max_workers=1, queue_timeout=0)
        self.start_service()
        first = self.connect().open()
        self.assertEnds(
            self.run_client("alice"), 75, "the server is full, try again later"
        )
        first.close()
        self.assertEqual(["exit", "0"], first.end())
        self.settled_status()  # it counts until the service has reaped it
        self.assertServed(self.run_client("alice"))

    def test_environment_that_cannot_be_sent(self):
        """FAULT 43: nobody gets around the service, and max_workers, with it."""
        self.configure(directory=self.root)
        self.start_service()
        for value in ("a\nb", "x" * 5000):
            done = self.run_client("alice", BRZ_EMAIL=value)
            self.assertEnds(done, 64, "BRZ_EMAIL does not fit into a request")
        self.assertEqual(0, self.status()["totals"]["spawned"])
        command = "bzr serve --inet " + "x" * 5000
        done = self.run_client("alice", SSH_ORIGINAL_COMMAND=command, TZ="a\nb")
        self.assertServed(done)
        self.assertEqual(1, self.status()["totals"]["spawned"])


class TestDoors(ClientTestCase):
    """Which door a client uses."""

    def check(self, words, asked):
        """The client's request comes in at the door *asked*."""
        started = self.start_program("alice", "--no-fallback", *words)
        asked.accept()
        asked.close_worker()
        asked.answer("exit", 0)
        self.assertEqual((b"", b""), started.communicate(b"", DEADLINE))
        self.assertEqual(0, started.returncode)
        asked.hang_up()

    def test_choice(self):
        fifo, link = FakeService(self), FakeService(self, "socket")
        self.check([], link)
        self.check(["--door", "socket"], link)
        self.check(["--door=fifo"], fifo)
        link.close()
        self.check([], fifo)
        done = self.run_client("alice", "--no-fallback", "--door", "socket")
        self.assertEnds(done, 69, f"no service at {self.runtime} (No such file or")
        fifo.close()
        done = self.run_client("alice", "--no-fallback")
        self.assertEnds(done, 69, f"no service at {self.runtime} (No such file or")

    def test_full(self):
        """A service that has not accepted those before yet is waited for."""
        fake = FakeService(self, "socket")
        waiting = []
        with socket.socket(fileno=os.dup(fake.control)) as listener:
            listener.listen(0)
            with contextlib.suppress(BlockingIOError):
                while True:
                    waiting.append(socket.socket(socket.AF_UNIX))
                    self.addCleanup(waiting[-1].close)
                    waiting[-1].setblocking(False)
                    waiting[-1].connect(os.path.relpath(fake.path))
            self.configure(connect_timeout=0.2)
            done = self.run_client("alice", "--no-fallback")
            self.assertEnds(done, 69, "does not answer")
            self.configure(connect_timeout=DEADLINE)
            started = self.start_program("alice", "--no-fallback")
            for _ in waiting[1:]:
                listener.accept()[0].close()
        fake.accept()
        fake.close_worker()
        fake.answer("exit", 0)
        self.assertEqual((b"", b""), started.communicate(b"", DEADLINE))

    def test_long_path(self):
        """Longer than the address of a socket can be."""
        self.runtime = os.path.join(self.test_dir, "long" * 40)
        self.check([], FakeService(self, "socket"))


class TestOriginalCommand(ClientTestCase):
    """sshd leaves what the user asked for in SSH_ORIGINAL_COMMAND."""

    def test_command(self):
        """tests/client/test_sshcommand.py has more that are accepted, or refused."""
        self.configure(directory=self.root)
        accepted = "/usr/bin/brz serve --inet --directory=/ --allow-writes"
        done = self.run_client("alice", SSH_ORIGINAL_COMMAND=accepted)
        self.assertServed(done, "without it")
        for command in ("", "bzr serve --inet; sh", "\x1b[2J\n\udcff" + "x" * 10000):
            done = self.run_client("alice", SSH_ORIGINAL_COMMAND=command)
            self.assertEnds(done, 64, "only 'bzr serve --inet' is allowed")
            # What is told can do nothing to a terminal.
            self.assertTrue(len(done.stderr) < 200, done.stderr)
            self.assertTrue(done.stderr.decode().strip().isprintable(), done.stderr)

    def test_no_shell(self):
        """ssh without a command, with a terminal, asks for a shell."""
        self.configure(directory=self.root)
        ours, terminal = os.openpty()
        self.addCleanup(os.close, ours)
        with open(terminal, "rb") as stdin:
            done = subprocess.run(
                self.client_words("alice"),
                stdin=stdin,
                capture_output=True,
                env={**self.env, "SSH_TTY": os.ttyname(terminal)},
                timeout=DEADLINE,
                check=False,
            )
        self.assertEnds(done, 64, "not a shell")


class TestFallback(ClientTestCase):
    """Without a service the client serves the connection itself, and says why."""

    def check(self, *texts):
        done = self.run_client("alice", "--no-fallback")
        self.assertEnds(done, 69, *texts)
        self.configure(directory=self.root)
        done = self.run_client("alice")
        self.assertServed(done, *texts, "; serving this connection without it")

    def make_control(self):
        """A control FIFO that nobody reads; its path."""
        os.makedirs(os.path.join(self.runtime, "replies"), 0o700)
        control = os.path.join(self.runtime, "control")
        os.mkfifo(control, 0o600)
        return control

    def test_no_service(self):
        """No directory, nobody who reads the FIFO, no FIFO, a file in its place."""
        self.check("no service at " + self.runtime)
        self.assertFalse(os.path.exists(self.runtime))
        control = self.make_control()
        self.check("no service at " + self.runtime)
        os.unlink(control)
        self.check("no service at " + self.runtime)
        with open(control, "w"):
            pass
        self.check(f"control in {self.runtime} is not a FIFO of ours")
        self.assertEqual(0, os.path.getsize(control))
        os.unlink(control)

    def test_writable_by_others(self):
        """Somebody else could be listening there."""
        control = self.make_control()
        listening = os.open(control, os.O_RDWR | os.O_NONBLOCK)
        for mode in (0o770, 0o707):
            os.chmod(self.runtime, mode)
            self.check("is writable by others", f"{mode:04o}", "chmod")
        self.assertRaises(BlockingIOError, os.read, listening, 1)
        os.close(listening)
        os.unlink(control)

    def test_owned_by_another(self):
        self.runtime = "/"
        if os.geteuid() == 0:
            self.runtime = os.path.join(self.test_dir, "theirs")
            os.mkdir(self.runtime)
            os.chown(self.runtime, 65534, 65534)
        self.check("is owned by uid ", f"not by uid {os.geteuid()}")

    def test_nothing_to_serve(self):
        """The reason is told by whoever finds it."""
        done = self.run_client("alice")
        self.assertEqual((3, b""), (done.returncode, done.stdout))
        self.assertContainsString(done.stderr, b"no directory to serve: give")


class TestBrz(ClientTestCase):
    """What only Breezy's command has."""

    scenarios = ClientTestCase.scenarios[:1]

    def test_usage(self):
        for words in ([], ["alice", "bob"], ["--frobnicate", "alice"]):
            self.assertEnds(self.run_client(*words), 3, "brz: ERROR: ")

    def test_overrides(self):
        """-O goes on to what serves in our place."""
        done = self.run_client("alice", f"-Olpserve.directory={self.root}")
        self.assertServed(done, "without it")

    def test_user_like_an_option(self):
        """It must not become an option of what serves in our place."""
        self.configure(directory=self.root)
        for user in ("--help", "--allow-writes", "-x"):
            self.assertEnds(self.run_client("--", user), 64, "USER")


class TestStandAlone(ClientTestCase):
    """What only the program beside Breezy has."""

    scenarios = ClientTestCase.scenarios[1:]

    def test_usage(self):
        for words in (
            [],
            ["alice", "bob"],
            ["--frobnicate", "alice"],
            ["alice", "--runtime-dir"],
            ["-c", "sh"],
        ):
            self.assertEnds(self.run_client(*words), 64, "lp-serve-client: ", "--help")

    def test_without_breezy(self):
        """Nothing can serve in its place: it says so."""
        os.mkdir("path")
        os.symlink(sys.executable, "path/python3")
        done = self.run_client("alice", PATH=os.path.abspath("path"))
        self.assertEqual((69, b""), (done.returncode, done.stdout))
        self.assertContainsString(done.stderr, b"cannot run brz: No such file")

    def test_through_a_symlink(self):
        self.configure(directory=self.root)
        os.symlink(self.client_path, "first")
        os.symlink("first", "second")
        done = self.run_program([os.path.abspath("second"), "alice"], b"hello\n")
        self.assertEqual((0, HELLO), (done.returncode, done.stdout))

    def test_imports_no_breezy(self):
        """And nothing from where users or sites put modules."""
        self.start_service()
        for name in ("breezy.py", "shlex.py", "select.py", "sitecustomize.py"):
            with open(name, "w") as file:
                file.write("raise SystemExit('imported')\n")
        done = self.run_client("alice", "--no-fallback", PYTHONPATH=self.test_dir)
        self.assertServed(done)

    def test_beside(self):
        """The Breezy beside the program is used, not that on PATH.

        It gets nothing of the client's: no descriptors, no blocked signals.
        """
        os.mkdir("beside")
        os.symlink(sys.executable, "beside/python3")
        with open("beside/brz", "w") as file:
            file.write(f"#!{sys.executable} -IS\n{_BESIDE}")
        os.chmod("beside/brz", 0o755)
        program = os.path.join("beside", "lp-serve-client")
        shutil.copy(self.client_path, program)
        os.symlink(os.path.join(PLUGIN, "lpserve"), "lpserve")  # that in Python
        os.mkdir(self.runtime, 0o700)
        for door in ("fifo", "socket"):
            # There is something that could have stayed open.
            fake = FakeService(self, door)
            started = self.start_words([os.path.abspath(program), "alice"])
            fake.request()
            fake.kill()
            stdout, stderr = started.communicate(b"", DEADLINE)
            self.assertEqual(0, started.returncode, stderr)
            words = b"lp-serve --inet -- alice, [0, 1, 2], SigBlk: 0000000000000000\n"
            self.assertEqual(words, stdout)

    def test_version(self):
        done = self.run_client("--frobnicate", "--version")
        self.assertEqual((0, b""), (done.returncode, done.stderr))
        kind = b"native" if self.native else b"Python"
        self.assertStartsWith(done.stdout, b"lp-serve-client 0.")
        self.assertEndsWith(done.stdout, b" (" + kind + b")\n")
