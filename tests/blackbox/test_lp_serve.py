# SPDX-License-Identifier: GPL-2.0-or-later

"""'brz lp-serve': one connection on standard input and output, or the service."""

import contextlib
import os
import signal
import subprocess

from breezy import errors
from breezy.bzr.smart import medium
from breezy.transport.remote import RemoteTransport

from ...lpserve.client import conversation
from ..harness import DEADLINE, LiveTestCase, descriptors_of, read_line, wait_until

HELLO = b"ok\x012\n"

#: A plug-in that writes to standard output in all the usual ways.
_NOISY = """
import sys
from breezy.bzr.smart.server import SmartTCPServer
from breezy.bzr.smart.medium import SmartServerStreamMedium

print("noise while loading")
sys.__stdout__.write("more noise while loading\\n")

_original = SmartServerStreamMedium._build_protocol

def _build_protocol(self):
    print("noise while serving")
    sys.__stdout__.write("more noise while serving\\n")
    sys.stdout.flush()
    try:
        print(repr(sys.stdin.read()))
    except Exception as error:
        print(error)
    return _original(self)

SmartServerStreamMedium._build_protocol = _build_protocol
"""


class InetTestCase(LiveTestCase):
    def inet(self, *words, stdin=b"hello\n", **env):
        """Serve *stdin* to its end; what came of it."""
        words = self.brz("lp-serve", "--inet", *words)
        return self.run_program(words, stdin, **env)

    def start_inet(self, *words, **env):
        return self.start_words(self.brz("lp-serve", "--inet", *words), **env)

    def transport(self, *words, **env):
        """What a Breezy client sees of the connection."""
        served = self.start_inet(*words, **env)
        pipes = medium.SmartSimplePipesClientMedium(
            served.stdout, served.stdin, "bzr://lpserve/"
        )
        return RemoteTransport("bzr://lpserve/", medium=pipes)

    def assertRefused(self, done, status, *texts):
        """It ended with *status* and one line that has all of *texts*."""
        self.assertEqual(
            (status, b""), (done.returncode, done.stdout), str(done.stderr)
        )
        self.assertEqual(1, done.stderr.count(b"\n"), str(done.stderr))
        self.assertEndsWith(done.stderr, b"\n")
        for text in texts:
            self.assertContainsString(done.stderr.decode(), text)


class TestServing(InetTestCase):
    def test_hello(self):
        """A client that says nothing and closes is no error either."""
        for stdin, answer in ((b"hello\n", HELLO), (b"", b"")):
            done = self.inet("alice", "--directory", self.root, stdin=stdin)
            told = (done.returncode, done.stdout, done.stderr)
            self.assertEqual((0, answer, b""), told)

    def test_client_timeout(self):
        """The client is given up although it has not closed anything."""
        served = self.start_inet(
            "alice", "--directory", self.root, "--client-timeout=0.2"
        )
        os.write(served.stdin.fileno(), b"hello\n")
        self.assertEqual(HELLO, read_line(served.stdout.fileno()))
        self.assertEqual(b"", read_line(served.stdout.fileno()))
        self.assertEqual(0, served.wait(DEADLINE))
        self.configure(client_timeout=0.2, directory=self.root)
        served = self.start_inet("alice")
        self.assertEqual(b"", read_line(served.stdout.fileno()))
        self.assertEqual(0, served.wait(DEADLINE))

    def test_user_is_the_committer(self):
        """Unless the connection brings an address of its own."""
        script = (
            "from breezy.bzr.smart.medium import SmartServerStreamMedium as medium\n"
            "from breezy.config import GlobalStack\n"
            "original = medium._build_protocol\n"
            "def build(self):\n"
            "    print('by', GlobalStack().get('email'))\n"
            "    return original(self)\n"
            "medium._build_protocol = build\n"
        )
        self.add_plugin("who", script)
        done = self.inet("alice", "--directory", self.root)
        self.assertContainsString(done.stderr, b"by alice\n")
        done = self.inet("alice", "--directory", self.root, BRZ_EMAIL="a@b.example")
        self.assertContainsString(done.stderr, b"by a@b.example\n")

    def test_prints_of_a_plugin(self):
        """FAULT 23: whatever it prints, and whenever, none of it reaches the client."""
        self.add_plugin("noisy", _NOISY)
        done = self.inet("alice", "--directory", self.root, stdin=b"hello\nhello\n")
        self.assertEqual(
            (0, HELLO * 2), (done.returncode, done.stdout), str(done.stderr)
        )
        for noise in (b"noise while serving\n", b"more noise while serving\n"):
            self.assertContainsString(done.stderr, noise)

    def test_debugger_is_off(self):
        """SIGQUIT ends it; Breezy's own handler would prompt the client."""
        served = self.start_inet("alice", "--directory", self.root)
        os.write(served.stdin.fileno(), b"hello\n")
        self.assertEqual(HELLO, read_line(served.stdout.fileno()))
        served.send_signal(signal.SIGQUIT)
        self.assertEqual(b"", read_line(served.stdout.fileno()))
        self.assertEqual(-signal.SIGQUIT, served.wait(DEADLINE))


class TestDirectory(InetTestCase):
    """tests/test_root.py has more of what a directory may be."""

    def test_directory(self):
        """One for each user; the command line goes before breezy.conf."""
        for name in ("alice", "bob"):
            os.mkdir(os.path.join(self.root, name))
            with open(os.path.join(self.root, name, "whose"), "w") as file:
                file.write(name)
        self.configure(directory=self.root + "/bob")
        self.assertEqual(b"bob", self.transport("alice").get_bytes("whose"))
        for user in ("alice", "bob"):
            seen = self.transport(user, "--directory", "root/%u")
            self.assertEqual(user.encode(), seen.get_bytes("whose"))


class TestWriting(InetTestCase):
    def test_read_only(self):
        seen = self.transport("alice", "--directory", self.root)
        refused = self.assertRaises(errors.TransportNotPossible, seen.mkdir, "made")
        self.assertContainsString(str(refused), "readonly")
        self.assertEqual([], os.listdir(self.root))

    def test_allowed(self):
        self.transport("alice", "--directory", self.root, "--allow-writes").mkdir("a")
        self.configure(allow_writes=True)
        self.transport("alice", "--directory", self.root).mkdir("b")
        self.assertEqual(["a", "b"], sorted(os.listdir(self.root)))


class TestErrors(InetTestCase):
    def test_no_directory(self):
        self.assertRefused(
            self.inet("alice"), 3, "no directory to serve", "lpserve.directory"
        )
        done = self.inet("alice", "--directory", self.root + "/%u")
        self.assertRefused(done, 3, f"there is no directory {self.root}/alice")

    def test_user(self):
        for user in ("../alice", "", "a\nb", "\u00e9"):
            done = self.inet("--directory", self.root, "--", user)
            self.assertRefused(done, 3, "needs a USER")
        self.assertRefused(self.inet(), 3, "needs a USER")

    def test_neither_inet_nor_fork_server(self):
        for words in ([], ["--inet", "--fork-server", "alice"]):
            done = self.run_program(self.brz("lp-serve", *words))
            self.assertRefused(done, 3, "give one of --inet and --fork-server")

    def test_timeout(self):
        for value in ("soon", "-1"):
            done = self.inet(
                "alice", "--directory", self.root, f"--client-timeout={value}"
            )
            self.assertRefused(done, 3, "client-timeout")

    def test_configuration(self):
        """A value that cannot be used is an error that names the option."""
        self.configure(allow_writes="perhaps", directory=self.root)
        self.assertRefused(self.inet("alice"), 3, "lpserve.allow_writes")
        self.configure(client_timeout="-1", directory=self.root)
        self.assertRefused(self.inet("alice"), 3, "lpserve.client_timeout")


class TestForkServer(InetTestCase):
    """How a service begins, announces itself and ends."""

    def setUp(self):
        super().setUp()
        self.pid_file = os.path.join(self.test_dir, "pid")

    def daemon(self, *words, pass_fds=(), **env):
        """Start a service in the background; what its foreground process said."""
        self.configure(log_file=self.log_path)
        self.addCleanup(self.stop_daemon)
        words = ("--fork-server", "--daemon", "--directory", self.root, *words)
        # If the service kept any of the pipes open this would wait for it.
        return subprocess.run(
            self.brz("lp-serve", *words),
            stdin=subprocess.PIPE,
            capture_output=True,
            pass_fds=pass_fds,
            env={**self.env, **env},
            cwd=self.test_dir,
            timeout=DEADLINE,
            check=False,
        )

    def stop_daemon(self):
        with contextlib.suppress(conversation.NoService):
            self.ask("shutdown", "now")

    def test_daemon(self):
        """It returns when the service is ready, which keeps nothing of ours."""
        ours, theirs = os.pipe()
        self.addCleanup(os.close, ours)
        try:
            done = self.daemon(f"--pid-file={self.pid_file}", pass_fds=(theirs,))
        finally:
            os.close(theirs)
        self.assertEqual((0, b"", b""), (done.returncode, done.stdout, done.stderr))
        self.assertEqual(b"", read_line(ours))
        with open(self.pid_file) as file:
            pid = int(file.read())
        self.assertEqual(f"pid={pid}", self.ask("hello")[-1])
        self.assertNotEqual(os.getsid(0), os.getsid(pid))
        self.assertEqual("/", os.readlink(f"/proc/{pid}/cwd"))
        opened = descriptors_of(pid)
        expected = [os.devnull, os.devnull, self.log_path]
        self.assertEqual(expected, [opened[number] for number in range(3)])
        self.assertContainsString(self.log_text(), "Listening on " + self.runtime)
        self.assertEqual(["ok"], self.ask("shutdown"))
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the daemon has ended")
        self.assertFalse(os.path.exists(self.pid_file))

    def test_daemon_fails(self):
        """What goes wrong in the background is told in the foreground."""
        service = self.start_service()
        done = self.daemon(f"--pid-file={self.pid_file}")
        self.assertRefused(done, 3, "already running", f"pid {service.pid}")
        self.assertFalse(os.path.exists(self.pid_file))
        self.assertEqual(f"pid={service.pid}", self.ask("hello")[-1])

    def test_log_cannot_be_written(self):
        self.log_path = os.path.join(self.test_dir, "missing", "log")
        self.assertRefused(self.daemon(), 3, "cannot write " + self.log_path)

    def test_second_service(self):
        """It refuses with the pid of the first, which goes on."""
        service = self.start_service("--pid-file", self.pid_file)
        words = ["--fork-server", "--directory", self.root]
        done = self.run_program(self.brz("lp-serve", *words))
        self.assertRefused(done, 3, f"already running in {self.runtime}")
        self.assertContainsString(done.stderr.decode(), f"(pid {service.pid})")
        self.assertEqual(f"pid={service.pid}", self.ask("hello")[-1])
        with open(self.pid_file) as file:
            self.assertEqual(f"{service.pid}\n", file.read())

    def test_insecure_directory(self):
        os.mkdir(self.runtime)
        os.chmod(self.runtime, 0o770)
        words = ["--fork-server", "--directory", self.root]
        done = self.run_program(self.brz("lp-serve", *words))
        self.assertRefused(done, 3, "not safe to use", "writable by others", "0770")
        self.assertEqual([], os.listdir(self.runtime))

    def test_wrong_use(self):
        done = self.run_program(self.brz("lp-serve", "--fork-server"))
        self.assertRefused(done, 3, "lpserve.directory")
        words = ["--fork-server", "--directory", self.root, "alice"]
        done = self.run_program(self.brz("lp-serve", *words))
        self.assertRefused(done, 3, "--fork-server serves every user, not one")
