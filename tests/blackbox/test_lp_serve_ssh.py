# SPDX-License-Identifier: GPL-2.0-or-later

"""'brz lp-serve-ssh': its options, errors, start and signals."""

import os
import random
import re
import signal
import socket
import stat
import subprocess
import sys

from ..harness import DEADLINE, LiveTestCase, descriptors_of, read_line, wait_until
from ..live.ssh.conchcase import ConchServer, ConchTestCase
from ..live.ssh.logincase import BANNER

#: Has Python find no Twisted.
_NO_TWISTED = """
import sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("twisted", "zope"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Without())
"""

#: Runs a program with signals ignored or blocked.
_WITHOUT_SIGNALS = """
import os, signal, sys
signal.signal(signal.SIGCHLD, getattr(signal, sys.argv[1]))
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, getattr(signal, sys.argv[1]))
if sys.argv[2] == "blocked":
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
os.execv(sys.argv[3], sys.argv[3:])
"""


class SshServerCase(LiveTestCase):
    """Servers with nobody behind them.

    :ivar keys: an empty directory of keys.
    :ivar host_key: where the server is told to keep its key.
    """

    def setUp(self):
        super().setUp()
        self.keys = os.path.join(self.test_dir, "keys")
        os.mkdir(self.keys)
        os.chmod(self.keys, 0o755)
        self.host_key = os.path.join(self.test_dir, "host_key")

    def words(self, *options, listen="127.0.0.1:0"):
        """The words of a command line that has everything."""
        files = [f"--host-key={self.host_key}", f"--authorized-keys={self.keys}"]
        return self.brz("lp-serve-ssh", f"--listen={listen}", *files, *options)

    def begin(self, words, **env):
        """Start a server; what it says comes through its stderr."""
        started = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**self.env, **env},
            cwd=self.test_dir,
        )
        self.addCleanup(self._end, started)
        self.addCleanup(started.kill)
        return started

    def start(self, words, host="127.0.0.1", **env):
        """The same; the server, and the port that it says it listens at."""
        started = self.begin(words, **env)
        line = read_line(started.stderr.fileno()).decode()
        listening = re.fullmatch(re.escape(f"Listening on {host}:") + r"(\d+)\n", line)
        self.assertIsNot(None, listening, line)
        self.assertNotEqual(0, int(listening[1]))
        return started, int(listening[1])

    def wait_for(self, server, text):
        """Wait until it says *text*."""
        while text not in (line := read_line(server.stderr.fileno()).decode()):
            self.assertNotEqual("", line, f"it ended without {text!r}")
        return line

    def connect(self, port, host="127.0.0.1"):
        """A connection that has not said anything."""
        made = socket.create_connection((host, port), DEADLINE)
        self.addCleanup(made.close)
        return made

    def assertAnswers(self, port, host="127.0.0.1"):
        """It is an SSH server; the connection."""
        made = self.connect(port, host)
        self.assertEqual(BANNER, read_line(made.fileno()))
        return made

    def assertStops(self, server, number=signal.SIGTERM):
        """A signal ends it; it has printed nothing to standard output."""
        server.send_signal(number)
        out, err = server.communicate(timeout=DEADLINE)
        self.assertEqual((0, b""), (server.returncode, out), err)
        self.assertNotIn(b"Traceback", err)

    def assertRefused(self, server, *texts):
        """It ends with one line, that has all of *texts*."""
        out, err = server.communicate(timeout=DEADLINE)
        self.assertEqual((3, b"", 1), (server.returncode, out, err.count(b"\n")), err)
        self.assertStartsWith(err, b"brz: ERROR: ")
        for text in texts:
            self.assertContainsString(err.decode(), text)


class TestHelp(SshServerCase):
    def test_help(self):
        shown = self.run_brz("help", "lp-serve-ssh").stdout.decode()
        self.assertStartsWith(shown, "Purpose: Be an SSH server in front of the fork")
        self.assertEqual([], [line for line in shown.splitlines() if len(line) > 80])
        text = " ".join(shown.split())
        for each in (
            *("--listen=HOST:PORT", "--host-key=FILE", "--authorized-keys=DIR"),
            *("--runtime-dir=DIR", "127.0.0.1:5022", "brz-lpserve[ssh]", "Examples:"),
            *("SIGTERM", "SIGHUP", "lpserve.autostart", "brz lp-serve --fork-server"),
        ):
            self.assertContainsString(text, each)

    def test_without_twisted(self):
        """An error line says what to install; the help works."""
        hidden = os.path.join(self.test_dir, "hidden")
        os.mkdir(hidden)
        with open(os.path.join(hidden, "sitecustomize.py"), "w") as file:
            file.write(_NO_TWISTED)
        server = self.begin(self.words(), PYTHONPATH=hidden)
        self.assertRefused(server, "lp-serve-ssh needs Twisted", "pip install")
        shown = self.run_brz("help", "lp-serve-ssh", PYTHONPATH=hidden)
        self.assertContainsString(shown.stdout, b"pip install 'brz-lpserve[ssh]'")


class TestErrors(SshServerCase):
    """One line each, that names what is wrong."""

    def test_listen(self):
        taken = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(taken.close)
        port = taken.getsockname()[1]
        begun = [
            (self.begin(self.words(listen=listen)), texts)
            for listen, texts in (
                ("5022", ["listen must be HOST:PORT", "'5022'"]),
                (f"127.0.0.1:{port}", [f"127.0.0.1:{port}: Address already in use"]),
                # TEST-NET-1 is nobody's (RFC 5737).
                ("192.0.2.1:5022", ["192.0.2.1:5022: Cannot assign"]),
            )
        ]
        for server, texts in begun:
            self.assertRefused(server, "listen", *texts)

    def test_files(self):
        missing = os.path.join(self.test_dir, "missing")
        open_to_all = os.path.join(self.test_dir, "open")
        os.mkdir(open_to_all)
        os.chmod(open_to_all, 0o777)
        key = os.path.join(self.keys, "alice", "key")
        with open(os.path.join(self.keys, "alice"), "w") as file:
            file.write("rubbish")
        begun = [
            (self.begin(self.words(*options)), texts)
            for options, texts in (
                ([f"--authorized-keys={missing}"], [missing, "No such file"]),
                ([f"--authorized-keys={open_to_all}"], [open_to_all, "mode 0777"]),
                ([f"--host-key={key}"], ["cannot read or make the host key", key]),
            )
        ]
        for server, texts in begun:
            self.assertRefused(server, *texts)
        # A start that fails makes no file.
        self.assertEqual(["alice"], os.listdir(self.keys))

    def test_configuration(self):
        self.configure(keepalive_interval="often")
        first = self.begin(self.words())
        self.assertRefused(first, "lpserve.keepalive_interval", "often")
        self.configure(listen="somewhere", authorized_keys="/nowhere")
        # In the order in which they are found; what is not given is configured.
        here = f"--authorized-keys={self.keys}"
        second = self.begin(self.brz("lp-serve-ssh", here))
        third = self.begin(self.brz("lp-serve-ssh", "--listen=127.0.0.1:0"))
        self.assertRefused(second, "listen must be HOST:PORT", "'somewhere'")
        self.assertRefused(third, "cannot read /nowhere: No such file")


class TestServer(SshServerCase):
    """How it begins, announces itself and ends."""

    def test_life(self):
        """READY=1 for systemd; a stop with nothing open; the port is free again."""
        name = f"@lpserve-{self.token}"
        systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(systemd.close)
        systemd.settimeout(DEADLINE)
        systemd.bind("\0" + name[1:])
        for count in (1, 2):
            server, port = self.start(
                self.words(f"-Olpserve.ssh_processes={count}"), NOTIFY_SOCKET=name
            )
            said = systemd.recv(4096).decode().splitlines()
            status = f"STATUS=Listening on 127.0.0.1:{port}"
            self.assertEqual(["READY=1", f"MAINPID={server.pid}", status], said)
            self.assertEqual(0o600, stat.S_IMODE(os.stat(self.host_key).st_mode))
            self.assertStops(server)
            said = systemd.recv(4096)
            self.assertStartsWith(said, b"STOPPING=1\nSTATUS=stopping; ")
            with socket.socket() as again:
                again.bind(("127.0.0.1", port))

    def test_ipv6(self):
        server = self.begin(self.words(listen="[::1]:0"))
        line = read_line(server.stderr.fileno()).decode()
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError as error:
            # A system without it.
            self.assertContainsString(line, f"cannot listen on ::1:0: {error.strerror}")
            return
        port = int(re.fullmatch(r"Listening on \[::1\]:(\d+)\n", line)[1])
        self.assertAnswers(port, "::1").close()
        self.wait_for(server, "peer='[::1]:")
        self.assertStops(server)

    def test_configured(self):
        """breezy.conf, -O before it, the command line before both; else defaults."""
        self.configure(
            listen="127.0.0.1:0",
            host_key="~/there/key",
            authorized_keys=self.keys,
        )
        server, _ = self.start(self.brz("lp-serve-ssh"))
        self.assertTrue(os.path.exists(os.path.join(self.home, "there", "key")))
        self.assertStops(server)
        self.configure(listen="rubbish", host_key=self.host_key)
        beside = os.path.join(os.path.dirname(self.config), "lpserve")
        os.makedirs(os.path.join(beside, "authorized_keys"), 0o755)
        os.chmod(os.path.join(beside, "authorized_keys"), 0o755)
        other = os.path.join(self.test_dir, "other")
        server, _ = self.start(
            self.brz(
                *("lp-serve-ssh", f"--host-key={other}"),
                *("-Olpserve.listen=127.0.0.1:0", "-Olpserve.host_key=/nowhere"),
            )
        )
        self.assertTrue(os.path.exists(other))
        self.assertStops(server)
        self.configure()
        server, _ = self.start(self.brz("lp-serve-ssh", "--listen=127.0.0.1:0"))
        self.assertTrue(os.path.exists(os.path.join(beside, "ssh_host_ed25519_key")))
        self.assertStops(server)

    def test_hangup(self):
        """A configuration with an error is logged at SIGHUP, and changes nothing."""
        self.configure(max_startups=1)
        server, port = self.start(self.words())
        first = self.assertAnswers(port)
        self.configure(max_startups="some")
        server.send_signal(signal.SIGHUP)
        line = self.wait_for(server, "cannot reload the configuration: ")
        self.assertContainsString(line, "lpserve.max_startups")
        self.assertEqual(b"", self.connect(port).recv(1))
        self.wait_for(server, ": past per_source_max_startups")
        first.close()
        self.assertStops(server)

    def test_without_streams(self):
        """Started with closed descriptors, it sends no log to a client's socket."""
        begun = []
        # Breezy itself does not start without a stdin.
        for closed in (">&- 2>&-", "2>&-", ">&-"):
            # Nobody else has these addresses.
            host = "127." + ".".join(str(random.randint(1, 254)) for _ in range(3))
            with socket.socket() as probe:
                probe.bind((host, 0))
                port = probe.getsockname()[1]
            words = self.words(listen=f"{host}:{port}")
            shell = ["sh", "-c", f'exec "$@" {closed}', "sh", *words]
            begun.append((self.begin(shell), host, port))

        for server, host, port in begun:

            def listens(server=server, host=host, port=port):
                self.assertIs(None, server.poll())
                with socket.socket() as made:
                    return made.connect_ex((host, port)) == 0

            wait_until(listens, "it listens")
            connections = [self.assertAnswers(port, host) for _ in range(4)]
            opened = descriptors_of(server.pid)
            for number in range(3):
                self.assertFalse(opened.get(number, "").startswith("socket:"))
            for each in connections[:2]:
                # This is logged.
                each.sendall(b"rubbish\n" * 10)
                each.close()
            server.send_signal(signal.SIGHUP)
            server.send_signal(signal.SIGTERM)
            # With a status that is Breezy's, which misses its stdout in the end.
            server.wait(DEADLINE)
            rest = b""
            for each in connections[2:]:
                each.settimeout(DEADLINE)
                while chunk := each.recv(4096):
                    rest += chunk
            for text in (b"Listening", b"user=", b"configuration", b"stopping"):
                self.assertNotIn(text, rest)


class TestSignals(ConchTestCase):
    """FAULT 18: the starter ignores or blocks signals."""

    def start_with(self, *words):
        directory = os.path.join(self.test_dir, "ssh-" + "-".join(words))
        brz = [sys.executable, "-c", _WITHOUT_SIGNALS, *words, *self.brz()]
        self.server = ConchServer(directory, brz)
        self.server.allow("now", "alice")
        self.start_server()

    def assertServes(self):
        """Sessions, which are processes without a service, end with their status."""
        for _ in range(2):
            session = self.start_ssh()
            self.say_hello(session)
            session.stdin.close()
            self.assertEqual(0, session.wait(DEADLINE))
        exits = [record["exit"] for record in self.server.wait_for_records(2)]
        self.assertEqual(["0", "0"], exits)
        self.assertEqual({self.server.pid}, set(self.processes()))

    def test_ignored_or_blocked(self):
        self.configure(directory=self.root)
        for words in (("SIG_IGN", "open"), ("SIG_DFL", "blocked")):
            self.start_with(*words)
            self.assertServes()
            if words[0] == "SIG_IGN":
                self.server.signal(signal.SIGINT)  # it stays ignored
            self.server.signal(signal.SIGHUP)
            self.server.wait_for_log("configuration reloaded")
            self.assertEqual(0, self.server.stop())
