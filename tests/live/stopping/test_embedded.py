# SPDX-License-Identifier: GPL-2.0-or-later

"""FAULT 67: a ``brz`` that is no Python file, but a program with Python inside.

Debian's is one; it is started as systemd does, by its path and with systemd's PATH.
"""

import contextlib
import os
import subprocess

from breezy.tests import features

from ....lpserve.client import conversation
from ...harness import HELLO, LiveTestCase, read_line, wait_until
from ..ssh.conchcase import ConchTestCase

PROGRAM = "/usr/bin/brz"
SYSTEMD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"


class _EmbeddedFeature(features.Feature):
    def _probe(self):
        with contextlib.suppress(OSError), open(PROGRAM, "rb") as file:
            return file.read(4) == b"\x7fELF"
        return False

    def feature_name(self):
        return f"{PROGRAM} that is a binary (Debian's package brz)"


class _TwistedFeature(features.Feature):
    def _probe(self):
        script = "import twisted.conch, cryptography"
        words = ["/usr/bin/python3", "-c", script]
        with contextlib.suppress(OSError):
            done = subprocess.run(words, capture_output=True, env={}, check=False)
            return done.returncode == 0
        return False

    def feature_name(self):
        return "Twisted for the system's Python (Debian's package python3-twisted)"


embedded_feature = _EmbeddedFeature()
twisted_feature = _TwistedFeature()


class EmbeddedCase(LiveTestCase):
    """All that is Breezy is Debian's ``brz``.

    :ivar path: what PATH says.
    """

    path = SYSTEMD_PATH

    def setUp(self):
        super().setUp()
        self.requireFeature(embedded_feature)

    def brz(self, *words):
        return [PROGRAM, *words]

    @property
    def env(self):
        return {**super().env, "PATH": self.path}

    def client(self, *words):
        """Say "hello" through 'brz lp-serve-client'; the completed process."""
        words = self.brz("lp-serve-client", *words, "alice")
        return self.run_program(words, b"hello\n")

    def running(self):
        """The programs that our processes execute."""
        found = set()
        for pid in self.processes():
            with contextlib.suppress(OSError):
                found.add(os.readlink(f"/proc/{pid}/exe"))
        return found


class TestService(EmbeddedCase):
    path = ""

    def test_by_path(self):
        """Start, ask, reload and stop it; there is no Python to be found in PATH."""
        self.start_service()
        self.assertEqual({PROGRAM}, self.running())
        done = self.client("--no-fallback")
        self.assertEqual((0, HELLO, b""), (done.returncode, done.stdout, done.stderr))
        self.run_brz("lp-serve-control", "reload")
        self.assertEqual(2, self.status()["generation"])
        self.check_serves(doors=("fifo",))
        self.run_brz("lp-serve-control", "shutdown")
        self.assertEqual(0, self.service.wait())

    def test_by_name(self):
        """The program is found in PATH: its first word has no directory."""
        self.path = SYSTEMD_PATH
        self.brz = lambda *words: ["brz", *words]
        self.service = subprocess.Popen(
            ["/bin/sh", "-c", 'exec "$@"', "sh", *self.brz("lp-serve", "--fork-server")]
            + ["--directory", self.root],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self.env,
        )
        self.addCleanup(self.stop_service, self.service)
        socket = os.path.join(self.runtime, "socket")
        wait_until(lambda: os.path.exists(socket), "its doors are open")
        self.check_serves(doors=("fifo",))


class TestWithoutService(EmbeddedCase):
    def test_fallback(self):
        self.configure(directory=self.root)
        done = self.client()
        self.assertEqual((0, HELLO), (done.returncode, done.stdout), done.stderr)
        self.assertIn(b"serving this connection without it", done.stderr)

    def test_autostart(self):
        """The service that it starts is the same program."""
        self.configure(directory=self.root, autostart=True, log_file=self.log_path)
        self.addCleanup(self.stop)
        done = self.client()
        self.assertEqual((0, HELLO, b""), (done.returncode, done.stdout, done.stderr))
        self.assertEqual("ok", self.ask("hello")[0])
        self.assertEqual({PROGRAM}, self.running())

    def stop(self):
        with contextlib.suppress(conversation.NoService):
            self.ask("shutdown", "now")


class TestSsh(EmbeddedCase, ConchTestCase):
    """'brz lp-serve-ssh' with the system's Twisted."""

    def setUp(self):
        super().setUp()
        self.requireFeature(twisted_feature)

    def test_fallback(self):
        """Each connection gets a process of its own, of the same program."""
        self.configure(directory=self.root)
        self.start_server()
        process = self.start_ssh()
        os.write(process.stdin.fileno(), b"hello\n")
        self.assertEqual(HELLO, read_line(process.stdout.fileno()))
        process.stdin.close()
        self.assertEqual(0, process.wait())
        [record] = self.server.wait_for_records(1)
        self.assertStartsWith(record["served"], "process ")
