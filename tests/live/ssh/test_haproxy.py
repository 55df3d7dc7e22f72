# SPDX-License-Identifier: GPL-2.0-or-later

"""HAProxy in front of 'brz lp-serve-ssh', configured as in deploy/haproxy.cfg."""

import os
import re
import shutil
import socket
import subprocess
import tempfile

from breezy.tests import features

from ...harness import DEADLINE, PLUGIN, wait_until
from .logincase import EndCase


class _HaproxyFeature(features.Feature):
    def _probe(self):
        return (
            shutil.which("haproxy", path=os.environ["PATH"] + ":/usr/sbin") is not None
        )

    def feature_name(self):
        return "HAProxy"


haproxy_feature = _HaproxyFeature()


def free_port():
    """A port of 127.0.0.1 that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        return made.getsockname()[1]


class TestHaproxy(EndCase):
    """One host; HAProxy connects to it from 127.0.0.1, and asks its agent."""

    def setUp(self):
        super().setUp()
        self.requireFeature(haproxy_feature)
        self.agent = free_port()
        # A short path: a socket is bound to it.
        place = tempfile.mkdtemp(prefix="lpserve-test-")
        self.addCleanup(shutil.rmtree, place)
        self.admin = os.path.join(place, "admin")

    def start_haproxy(self):
        """Start it with our configuration, with the test's addresses in it."""
        with open(os.path.join(PLUGIN, "deploy", "haproxy.cfg")) as file:
            text = file.read()
        port = free_port()
        for old, new in (
            ("/dev/log", "127.0.0.1"),
            ("maxconn 20000", "maxconn 100"),
            ("/run/haproxy/admin.sock", self.admin),
            ("bind :22", f"bind 127.0.0.1:{port}"),
            ("agent-port 5023", f"agent-port {self.agent}"),
            ("192.0.2.11:5022", f"127.0.0.1:{self.server.port}"),
        ):
            self.assertContainsString(text, old)
            text = text.replace(old, new)
        text = re.sub("    server (two|three) .*\n", "", text)
        path = os.path.join(self.test_dir, "haproxy.cfg")
        with open(path, "w") as file:
            file.write(text)
        self.haproxy = subprocess.Popen(
            ["haproxy", "-db", "-f", path],
            env={**self.env, "PATH": "/usr/sbin:" + self.env["PATH"]},
            stdin=subprocess.DEVNULL,
        )
        self.addCleanup(self.haproxy.wait, DEADLINE)
        self.addCleanup(self.haproxy.terminate)
        self.wait_for_state("UP", 100)
        return port

    def state(self):
        """What HAProxy says of the host: its status and its weight."""
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(self.admin)
            link.sendall(b"show stat\n")
            with link.makefile() as answer:
                rows = [line.rstrip("\n").split(",") for line in answer]
        names = rows[0]
        for row in rows:
            found = dict(zip(names, row))
            if found.get("svname") == "one":
                return found["status"], int(found["weight"])
        return None

    def wait_for_state(self, wanted, weight=None):
        """Wait for a status that begins so, and a weight if it matters."""

        def is_so():
            self.assertEqual(None, self.haproxy.poll(), "it has ended")
            if not os.path.exists(self.admin):
                return False
            status, found = self.state()
            return status.startswith(wanted) and weight in (None, found)

        wait_until(is_so, f"HAProxy finds {wanted} {weight}")

    def test_host(self):
        self.begin(
            proxy_protocol_from="127.0.0.1",
            agent_listen=f"127.0.0.1:{self.agent}",
            max_workers=4,
            per_source_max_startups=1,
        )
        port = self.start_haproxy()
        # Checks are no logins that fail, and no penalty follows.
        self.server.port = port
        self.server.write_client(self.server.public_host_key())
        process = self.start_ssh()
        self.say_hello(process)
        self.wait_for_state("UP", 75)
        self.assertEqual(["ok"], self.ask("drain", "back", "soon"))
        self.wait_for_state("DRAIN")
        self.say_hello(process)  # what runs goes on
        self.assertEqual(["ok"], self.ask("resume"))
        self.wait_for_state("UP", 75)
        self.assertEqual(["ok"], self.ask("shutdown"))
        self.wait_for_state("MAINT")
        process.stdin.close()
        self.assertEqual(0, process.wait(DEADLINE))
        self.assertNotContainsRe(self.server.log(), "penalty|is refused")
        self.assertEqual(0, self.service.wait(DEADLINE))
        self.start_service()  # the end of the test asks one
