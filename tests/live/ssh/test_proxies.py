# SPDX-License-Identifier: GPL-2.0-or-later

"""Proxies before 'brz lp-serve-ssh' that tell who the client is."""

import contextlib
import os
import socket
import sys

from ....lpserve.client import conversation
from ...harness import DEADLINE
from ...ssh.test_proxyheader import V4, version_2
from .logincase import BANNER, EndCase

#: An address that has a proxy; others of the host have none.
PROXY = "127.0.0.2"
#: A header of the second version that has no address: a health check's.
LOCAL = version_2(0x00, b"", 0x20)
#: What connects ssh through a proxy.
RELAY = """
import os, socket, sys, threading
port, header = int(sys.argv[1]), sys.argv[2].encode()
made = socket.create_connection(("127.0.0.1", port), 60, ("{proxy}", 0))
made.settimeout(None)
made.sendall(header + b"\\r\\n")
def up():
    while data := os.read(0, 65536):
        made.sendall(data)
    made.shutdown(socket.SHUT_WR)
threading.Thread(target=up, daemon=True).start()
while data := made.recv(65536):
    os.write(1, data)
"""


def header(host, port=4711):
    """A header of the first version for a client at *host*."""
    return f"PROXY TCP4 {host} 203.0.113.5 {port} 22\r\n".encode()


class ProxyCase(EndCase):
    ssh_processes = 2

    def start_behind(self, **options):
        """Start both, with a proxy."""
        self.begin(proxy_protocol_from=PROXY, **options)

    def connect_through(self, data=b"", address=PROXY):
        """A connection from *address* that begins with *data*."""
        made = socket.create_connection(
            ("127.0.0.1", self.server.port), DEADLINE, (address, 0)
        )
        self.addCleanup(made.close)
        made.sendall(data)
        return made

    def assertBanner(self, made):
        """The server is there for this connection."""
        self.assertEqual(BANNER, made.recv(len(BANNER)))

    def assertClosed(self, made):
        """The server has closed this connection, without a word."""
        with contextlib.suppress(ConnectionResetError):
            self.assertEqual(b"", made.recv(1))


class TestProxy(ProxyCase):
    def test_session(self):
        """Log, scoreboard, environment: all have the client's own address."""
        self.start_behind(max_workers_per_address=1)
        script = os.path.join(self.test_dir, "relay.py")
        with open(script, "w") as file:
            file.write(RELAY.format(proxy=PROXY))
        words = f"{sys.executable} {script} {self.server.port}"
        one = "PROXY TCP4 198.51.100.7 203.0.113.5 4711 22"
        command = f"-oProxyCommand={words} '{one}'"
        process = self.start_ssh(command, ("now", "bzr", "serve", "--inet"))
        self.say_hello(process)
        # The same with version 2, from another client.
        body = V4.replace(bytes((198, 51, 100, 7)), bytes((198, 51, 100, 8)))
        transport = self.open_transport(self.connect_through(version_2(0x11, body)))
        self.present_key(transport, "alice")
        session = self.execute(transport)
        session.sendall(b"hello\n")
        self.assertEqual(b"ok\x012\n", session.recv(100))
        answer = conversation.ask(self.runtime, ["connections"], DEADLINE)
        for host in ("198.51.100.7", "198.51.100.8"):
            self.assertIn(f'"peer": "{host}"', answer[1])
        # A second one of the same client is above max_workers_per_address.
        again = self.open_transport(self.connect_through(header("198.51.100.7", 99)))
        self.present_key(again, "alice")
        refused = self.execute(again)
        refused.shutdown_write()
        status, _, said = self.end(refused)
        self.assertEqual(75, status)
        self.assertIn("too many connections are open for this address", said)
        self.finish(process)
        self.assertHello(session)
        found = [(r["peer"], r["proxy"]) for r in self.server.wait_for_records(3)]
        wanted = ["198.51.100.7:4711", "198.51.100.7:99", "198.51.100.8:4711"]
        self.assertEqual(wanted, sorted(peer for peer, _ in found))
        for _, proxy in found:
            self.assertStartsWith(proxy, f"{PROXY}:")

    def test_limits(self):
        """Limits and penalties are those of clients, not of the proxy."""
        words = "noauth:100s min:150s"
        self.start_behind(per_source_penalties=words, per_source_max_startups=3)
        opened = [
            self.connect_through(header("198.51.100.7", port)) for port in (1, 2, 3)
        ]
        for each in opened:
            self.assertBanner(each)
        self.assertClosed(self.connect_through(header("198.51.100.7")))
        self.server.wait_for_log(
            r"drop connection #1 from 198\.51\.100\.7:4711: "
            r"past per_source_max_startups"
        )
        self.assertBanner(self.connect_through(header("198.51.100.8")))
        for number, each in enumerate(opened[:2], 1):
            each.close()
            self.server.wait_for_records(number)
        self.server.wait_for_log(r"198\.51\.100\.7 is refused for (200|199) s: ")
        self.assertClosed(self.connect_through(header("198.51.100.7")))
        self.assertBanner(self.connect_through(header("198.51.100.9")))

    def test_health_checks(self):
        """A proxy that only looks is neither logged nor refused."""
        self.start_behind(per_source_penalties="noauth:100s min:1s")
        for data in (LOCAL, b"PROXY UNKNOWN\r\n", b""):
            for _ in range(3):
                made = self.connect_through(data)
                if data:
                    self.assertBanner(made)
                made.close()
        # One that goes on is a client.
        transport = self.open_transport(self.connect_through(LOCAL))
        self.present_key(transport, "alice")
        self.assertRefuses(transport)
        transport.close()
        (record,) = self.server.wait_for_records(1)
        self.assertEqual(record["proxy"], record["peer"])
        lines = self.server.log().splitlines()
        self.assertEqual(2, len(lines), lines)
        self.server.wait_until_at_rest()

    def test_no_header(self):
        """Who has to send a header, and sends none, is not let in."""
        self.start_behind()
        self.assertClosed(self.connect_through(BANNER))
        self.server.wait_for_log(
            rf"connection from {PROXY}:\d+ closed: no PROXY header"
        )
        # Not any more after a reload.
        self.configure()
        self.hang_up()
        made = self.connect_through(BANNER)
        self.assertBanner(made)

    def test_from_elsewhere(self):
        """A header of who is no proxy is rubbish, also with a login behind it."""
        for count in (2, 1):
            self.configure(proxy_protocol_from=PROXY, ssh_processes=count)
            self.start_server()
            start = self.server.log_size()
            for number, data in enumerate((header("198.51.100.7"), LOCAL), 1):
                made = self.connect_through(data + BANNER, "127.0.0.3")
                with contextlib.suppress(ConnectionResetError):
                    while made.recv(1000):
                        pass
                record = self.server.wait_for_records(number, start)[-1]
                self.assertStartsWith(record["peer"], "127.0.0.3:")
                self.assertNotIn("proxy", record)
                self.assertEqual("it sent no version of SSH", record["exit"])
            self.assertEqual(0, self.server.stop())


class TestOneProcess(ProxyCase):
    ssh_processes = 1

    test_session = TestProxy.test_session
    test_limits = TestProxy.test_limits
    test_health_checks = TestProxy.test_health_checks
