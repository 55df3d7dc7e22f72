# SPDX-License-Identifier: GPL-2.0-or-later

"""The exporter with a service, without one, and with one that does not answer."""

import os
import signal
import socket

from ...harness import DEADLINE, descriptors_of, wait_until
from ..ssh.conchcase import ConchTestCase
from ..ssh.sshcase import SERVE
from .exportercase import ExporterTestCase

_WITHOUT = """
import sys
sys.modules["prometheus_client"] = None
"""


class TestService(ExporterTestCase):
    def test_life(self):
        """It outlives services, and is told how connections end."""
        self.start_exporter()
        self.assertEqual(0, self.samples()["lpserve_up"])
        self.assertContainsString(self.get("/healthz", 503), "no service (")
        self.start_service()
        self.serve("alice", "bob")[0].close()
        self.wait_for_totals(ended=1)
        found = self.samples()
        for name, value in (
            ("lpserve_up", 1),
            ('lpserve_connections_total{door="fifo",result="ended"}', 1),
            ('lpserve_connections_total{door="socket",result="ended"}', 0),
            ('lpserve_workers{state="busy"}', 1),
            ("lpserve_hand_over_seconds_count", 2),
            ("lpserve_first_byte_seconds_count", 1),
            ("lpserve_connection_duration_seconds_count", 1),
            ("lpserve_drained", 0),
        ):
            self.assertEqual(value, found[name], name)
        for process in ("service", "zygote", "workers"):
            name = f'lpserve_proportional_memory_bytes{{process="{process}"}}'
            self.assertTrue(found[name] > 1 << 16, name)
        self.assertTrue(found["lpserve_max_fds"] >= found["lpserve_open_fds"] > 5)
        self.assertEqual(0, self.stop_service())
        self.assertEqual(0, self.samples()["lpserve_up"])

    def test_health(self):
        """As ``lp-serve-control health`` says, without paths of the host."""
        self.start_exporter()
        self.start_service()
        wait_until(lambda: self.healthy(), "it is healthy")
        self.ask("drain", "until noon")
        wait_until(lambda: not self.healthy(), "it is drained")
        self.assertEqual("until noon\n", self.get("/healthz", 503))
        self.assertEqual(1, self.samples()["lpserve_drained"])
        self.ask("resume")
        wait_until(lambda: self.healthy(), "it is healthy again")
        os.rename(self.root, self.root + "-away")
        wait_until(lambda: not self.healthy(), "there is nothing to serve")
        text = self.get("/healthz", 503)
        self.assertContainsString(text, "there is no directory")
        self.assertNotIn(self.root, text)

    def healthy(self):
        """Whether /healthz says so; it keeps what it says for a second."""
        try:
            return self.get("/healthz") == "healthy\n"
        except AssertionError:
            return False

    def test_no_answer(self):
        """A service that is stopped holds nobody up for long; /healthz does not either.

        Many ask at once, and there are two threads at most that wait.
        """
        service = self.start_service()
        self.start_exporter()
        service.send_signal(signal.SIGSTOP)
        try:
            health = [self.connect_tcp() for _ in range(20)]
            asked = [self.connect_tcp() for _ in range(20)]
            for each in health:
                each.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            for each in asked:
                each.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            tasks = f"/proc/{self.exporter.pid}/task"
            wait_until(lambda: len(os.listdir(tasks)) == 3, "both wait")
            self.get("/")
            for each in asked:
                with each.makefile("rb") as file:
                    self.assertIn(b"\nlpserve_up 0.0\n", file.read())
            for each in health:
                with each.makefile("rb") as file:
                    self.assertIn(b"does not answer", file.read())
            self.assertTrue(len(os.listdir(tasks)) <= 3)
        finally:
            service.send_signal(signal.SIGCONT)
        self.assertEqual(1, self.samples()["lpserve_up"])

    def test_slow_clients(self):
        """So many that say nothing, and it answers, and keeps no descriptor."""
        self.start_exporter()
        before = len(descriptors_of(self.exporter.pid))
        silent = [self.connect_tcp() for _ in range(200)]
        self.get("/metrics")
        self.assertTrue(len(descriptors_of(self.exporter.pid)) < before + 80)
        for each in silent:
            each.close()
        wait_until(
            lambda: len(descriptors_of(self.exporter.pid)) == before, "all are closed"
        )


class TestStart(ExporterTestCase):
    def test_life(self):
        """Where breezy.conf says; READY=1 for systemd; signals end it."""
        self.configure(exporter_listen="127.0.0.1:0", max_workers="rubbish")
        name = f"@lpserve-{self.token}"
        systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(systemd.close)
        systemd.settimeout(DEADLINE)
        systemd.bind("\0" + name[1:])
        for number in (signal.SIGTERM, signal.SIGINT):
            self.start_exporter(
                "--runtime-dir=nowhere", NOTIFY_SOCKET=name, WATCHDOG_USEC="600000000"
            )
            self.assertContainsString(self.get("/"), "/metrics")
            self.connect_tcp()  # it does not wait for this one
            self.exporter.send_signal(number)
            out, err = self.exporter.communicate(timeout=DEADLINE)
            self.assertEqual((0, b"", b""), (self.exporter.returncode, out, err))
            ready = f"READY=1\nMAINPID={self.exporter.pid}\nSTATUS=Listening on "
            self.assertStartsWith(systemd.recv(4096).decode(), ready)
            self.assertEqual(b"WATCHDOG=1", systemd.recv(4096))
            self.assertStartsWith(systemd.recv(4096), b"STOPPING=1\n")

    def assertRefused(self, text, *options, **env):
        started = self.begin_exporter(*options, **env)
        out, err = started.communicate(timeout=DEADLINE)
        self.assertEqual((3, b"", 1), (started.returncode, out, err.count(b"\n")), err)
        self.assertContainsString(err.decode(), text)

    def test_errors(self):
        """Each is one line."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            there = "{}:{}".format(*taken.getsockname())
            self.assertRefused(
                f"cannot listen on {there}: Address already in use",
                f"--listen={there}",
            )
        self.assertRefused("exporter_listen must be HOST:PORT", "--listen=there")
        path = os.path.join(self.test_dir, "without")
        os.mkdir(path)
        with open(os.path.join(path, "sitecustomize.py"), "w") as file:
            file.write(_WITHOUT)
        self.assertRefused("lp-serve-exporter needs prometheus_client", PYTHONPATH=path)


class TestSsh(ConchTestCase, ExporterTestCase):
    """What lp-serve-ssh tells, through the service's runtime directory."""

    def count(self, name, **labels):
        text = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
        return self.samples().get(f"{name}{{{text}}}")

    def test_told(self):
        self.configure(per_source_penalties="authfail:60s invaliduser:60s min:1s")
        self.start_service()
        self.start_server()
        self.start_exporter()
        stranger = self.server.make_key("stranger", "ed25519")
        self.server.add_host("nobody", "mallory", stranger)
        listen = f"127.0.0.1:{self.server.port}"
        process = self.start_ssh()
        self.say_hello(process)
        wait_until(
            lambda: self.count(
                "lpserve_ssh_logins_total", listen=listen, result="accepted"
            ),
            "the login is counted",
        )
        self.assertEqual(1, self.count("lpserve_ssh_up", listen=listen))
        self.assertEqual(1, self.samples()["lpserve_ssh_sessions"])
        self.assertEqual(1, self.count("lpserve_ssh_connections", state="logged_in"))
        process.stdin.close()
        self.assertEqual(0, process.wait(DEADLINE))
        for _ in range(2):
            self.assertEqual(255, self.ssh("nobody", *SERVE).returncode)
        wait_until(
            lambda: self.count(
                "lpserve_ssh_drops_total", listen=listen, reason="penalty"
            ),
            "the second is counted",
        )
        for name, label, value in (
            ("logins", "result", "invaliduser"),
            ("penalties", "reason", "invaliduser"),
        ):
            labels = {"listen": listen, label: value}
            self.assertEqual(1, self.count(f"lpserve_ssh_{name}_total", **labels))
        self.assertEqual(0, self.samples()["lpserve_ssh_sessions"])
        self.assertEqual(0, self.server.stop())
        self.assertIs(None, self.count("lpserve_ssh_up", listen=listen))
        self.assertEqual([], [n for n in os.listdir(self.runtime) if "ssh" in n])
