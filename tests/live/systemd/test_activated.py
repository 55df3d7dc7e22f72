# SPDX-License-Identifier: GPL-2.0-or-later

"""Doors that systemd made (sd_listen_fds(3), systemd.socket(5))."""

import contextlib
import os
import shutil
import signal
import subprocess

from breezy.tests import TestSkipped

from ....lpserve.service.peers import peer_credentials
from ...client.nativeclient import compiler, native_client
from ...harness import DEADLINE, DOORS, PLUGIN, wait_until
from ...waiting import read_line
from ..spawning.socketcase import Link
from .systemdcase import SystemdCase

HELLO = b"ok\x012\n"

#: A plug-in with which the service waits for those who have come in.
PATIENT = """
import sys
if "--fork-server" in sys.argv:
    from breezy.plugins.lpserve.lpserve.service import shutdown
    shutdown.LAST_REQUESTS = 1000.0
"""


class TestActivated(SystemdCase):
    """``LISTEN_FDS``: by descriptors that the test made as systemd does."""

    def setUp(self):
        super().setUp()
        self.make_doors()

    def identities(self):
        return [os.stat(os.path.join(self.runtime, each)).st_ino for each in DOORS]

    def serve(self, connection):
        connection.open()
        self.assertEqual(HELLO, connection.hello())
        connection.close()
        self.assertEqual(["exit", "0"], connection.end())

    def ask_both(self):
        return [self.ask_worker(door=door) for door in ("fifo", "socket")]

    def test_restart(self):
        """No request is lost: what nobody has read waits for the next service."""
        before = self.identities()
        waiting = self.ask_both()  # before there is any
        service = self.start_service()
        for each in waiting:
            each.wait()
            self.serve(each)
        self.assertEqual(["control", "socket"], self.status()["doors"])
        running = self.connect(door="socket").open()
        service.terminate()
        self.wait_for(STOPPING="1")
        # While it stops they are not refused.
        waiting = self.ask_both()
        self.assertEqual(HELLO, running.hello())
        running.close()
        self.assertEqual(["exit", "0"], running.end())
        self.assertEqual(0, service.wait(DEADLINE))
        waiting += self.ask_both()
        self.assertEqual(before, self.identities())
        service = self.start_service()
        for each in waiting:
            each.wait()
            self.serve(each)
        self.assertNotContainsRe(self.log_text(), "refused|was removed|Traceback")
        # A killed one leaves them as they are.
        service.kill()
        service.wait()
        waiting = self.ask_both()
        self.start_service()
        for each in waiting:
            each.wait()
            self.serve(each)
        self.assertEqual(before, self.identities())

    def test_came_in_before(self):
        """Whoever has connected and not asked when it is to stop is served."""
        self.add_plugin("patient", PATIENT)
        service = self.start_service()
        link = self.link()
        service.terminate()
        self.wait_for_log("shutdown, asked for by SIGTERM")
        later = self.ask_worker(door="socket")
        link.spawn()
        service.terminate()
        self.wait_for(STOPPING="1")
        self.assertEqual(HELLO, link.hello())
        self.assertEqual([["exit", "0"]], link.end())
        self.assertEqual(0, service.wait(DEADLINE))
        self.start_service()
        later.wait()
        self.serve(later)

    def link(self):
        """A connection that the service has accepted."""
        made = Link(self.runtime)
        self.addCleanup(made.close)
        self.assertEqual("ok", made.ask(b"hello")[0])
        return made

    def test_clients(self):
        """They trust the service, whoever made the socket; and its FIFO."""
        self.start_service()
        for door in ("fifo", "socket"):
            client = self.start_client("--no-fallback", f"--door={door}", "alice")
            out, said = client.communicate(b"hello\n", DEADLINE)
            self.assertEqual((0, HELLO, b""), (client.returncode, out, said))

    def test_all_killed(self):
        """Clients at the FIFO see it, though systemd still reads that.

        systemd kills what is left of a service that was killed.
        """
        self.requireFeature(compiler)
        programs = [
            os.path.join(PLUGIN, "bin", "lp-serve-client"),
            native_client(static=False),
        ]
        for program in programs:
            service = self.start_service()
            client = subprocess.Popen(
                [program, "--no-fallback", "--door=fifo", "alice"],
                env=self.env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            self.addCleanup(self._end, client)
            client.stdin.write(b"hello\n")
            client.stdin.flush()
            self.assertEqual(HELLO, read_line(client.stdout.fileno()))
            service.kill()
            service.wait()
            for pid in self.processes():
                if pid != client.pid:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            self.assertEqual(69, client.wait(DEADLINE))
            said = client.stderr.read()
            self.assertContainsString(said, b"the service and the worker were killed")

    def test_who_listens(self):
        """Clients are told the service's uid, not that of who made the socket."""
        service = self.start_service()
        link = self.link()
        self.assertEqual((service.pid, os.geteuid()), peer_credentials(link.socket))

    def test_replaced(self):
        """A door that somebody removed is noticed as ever."""
        service = self.start_service()
        os.unlink(os.path.join(self.runtime, "control"))
        self.assertEqual(3, service.wait(DEADLINE))
        self.assertContainsString(self.log_text(), "control was removed or replaced")

    def test_wrong(self):
        """One line, and status 3."""
        os.chmod(os.path.join(self.runtime, "control"), 0o622)
        done = subprocess.run(
            self.brz("lp-serve", "--fork-server", "--directory", self.root),
            pass_fds=[number for _, number in self.passed],
            env={**self.env, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"},
            capture_output=True,
            timeout=DEADLINE,
            check=False,
        )
        control = os.path.join(self.runtime, "control")
        self.assertEqual(
            (
                3,
                "brz: ERROR: systemd passed descriptor 3 (a), a FIFO that others can "
                "use (mode 0622, not SocketMode=0600); its socket unit should say "
                f"ListenFIFO={control}\n",
            ),
            (done.returncode, done.stderr.decode()),
        )

    def test_daemon(self):
        """What goes into the background is none that systemd passes anything to."""
        before = self.identities()
        self.configure(log_file=self.log_path)
        done = subprocess.run(
            [
                *self.brz("lp-serve", "--fork-server", "--daemon"),
                *("--directory", self.root),
            ],
            pass_fds=[number for _, number in self.passed],
            env={**self.env, **self.rehearsed(), "LISTEN_FDS": "2"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=DEADLINE,
            check=False,
        )
        self.assertEqual((0, b""), (done.returncode, done.stderr))
        after = self.identities()
        self.assertFalse(set(before) & set(after), "it has made its own")
        self.assertEqual(["ok"], self.ask("shutdown", "now"))
        wait_until(lambda: not self.processes(), "it has ended")


class TestSocketActivate(SystemdCase):
    """systemd-socket-activate(1): real descriptors, though no FIFO."""

    def test_first_connection_starts_it(self):
        program = shutil.which("systemd-socket-activate")
        if program is None:
            raise TestSkipped("systemd-socket-activate is not installed")
        path = os.path.join(self.runtime, "socket")
        names = {**self.env, **self.rehearsed()}
        with open(self.log_path, "wb") as log:
            self.service = subprocess.Popen(
                [
                    *(program, "-l", path),
                    *(f"-E{name}={value}" for name, value in names.items()),
                    *self.brz("lp-serve", "--fork-server", "--directory", self.root),
                ],
                stdin=subprocess.DEVNULL,
                stderr=log,
                env=names,
            )
        self.addCleanup(self.service.wait, DEADLINE)
        self.addCleanup(self.service.send_signal, signal.SIGTERM)
        self.addCleanup(self.remove_doors)
        wait_until(lambda: os.path.exists(path), "it listens")
        client = self.start_client("--no-fallback", "--door=socket", "alice")
        out, said = client.communicate(b"hello\n", DEADLINE)
        self.assertEqual((0, HELLO, b""), (client.returncode, out, said))
        self.assertEqual(["control", "socket"], self.status()["doors"])
        self.assertContainsString(self.log_text(), "Listening on ")
