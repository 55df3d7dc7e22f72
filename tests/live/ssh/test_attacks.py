# SPDX-License-Identifier: GPL-2.0-or-later

"""Clients of lp-serve-ssh that do not log in, or do not read: what they can use up."""

import contextlib
import socket
import struct
import threading
import time

import paramiko

from ...harness import DEADLINE
from .flowcase import SECONDS, FlowCase
from .logincase import BANNER, KEXINIT, EndCase, LoginCase, packet, string

#: Connections of one address that do not log in.
MANY = 1000
HALF_A_KEY = packet(b"\x1e" + string(b"\x09" + b"\0" * 31))
#: A global request that wants an answer.
REQUEST = b"\x50" + string(b"whatever") + b"\1"
SERVICE = packet(b"\x05" + string(b"ssh-userauth"))


class TestStartups(EndCase):
    def connect_from(self, address):
        made = socket.create_connection(
            ("127.0.0.1", self.server.port), DEADLINE, (address, 0)
        )
        self.addCleanup(made.close)
        return made

    def test_half_open(self):
        """FAULT 39: one address opens all it can, and another one logs in."""
        self.configure(max_startups="10:30:500", per_source_penalties="yes")
        self.start_server()
        for _ in range(MANY):
            self.connect_from("127.0.0.1")
        reason = "past per_source_max_startups"
        self.server.wait_for_log(rf"drop connection #1 from 127\.0\.0\.1:\d+: {reason}")
        before = time.monotonic()
        for _ in range(10):
            self.assertIn_("-b", "127.0.0.2", "now")
        self.log("%.3f s for a login", (time.monotonic() - before) / 10)
        # The log has no line for each of them.
        log = self.server.log()
        self.assertLess(log.count("dropped") + log.count("drop connection"), 20)
        self.assertNotIn("not logged in", log)

    def test_penalties(self):
        """FAULT 39: an address that does not log in is refused for a time."""
        words = "noauth:100s authfail:100s invaliduser:7s grace-exceeded:9s min:150s"
        self.configure(per_source_penalties=words)
        self.start_server()
        for number in (1, 2):
            made = self.connect_from("127.0.0.2")
            self.assertEqual(BANNER, made.recv(len(BANNER)))
            made.close()
            self.server.wait_for_records(number)
        why = "connections without attempting authentication"
        refused = rf"127\.0\.0\.2 is refused for (200|199) s: {why}"
        self.server.wait_for_log(refused)
        self.assertEqual(b"", self.connect_from("127.0.0.2").recv(1))
        self.server.wait_for_log(rf"from 127\.0\.0\.2:\d+: penalty: {why}")
        # Two tries with a wrong key, of a known and an unknown account.
        self.server.add_host("wrong", "alice", self.server.make_key("wrong"))
        self.server.add_host("nobody", "carol", self.key)
        for host in ("nobody", "wrong", "wrong"):
            self.assertOut("-b", "127.0.0.3", host)
        refused = r"127\.0\.0\.3 is refused for 20\d s: failed authentication"
        self.server.wait_for_log(refused)
        self.assertEqual(b"", self.connect_from("127.0.0.3").recv(1))
        self.assertIn_("now")

    def test_unauthenticated(self):
        """max_startups bounds logins that are under way, also after a reload."""
        self.begin()
        process, inside = self.start_talking(), self.log_in()
        self.configure(max_startups=3, per_source_max_startups="none")
        self.hang_up()
        waiting = [self.connect_raw() for _ in range(3)]
        self.assertEqual([BANNER] * 3, [made.recv(len(BANNER)) for made in waiting])
        self.assertEqual(b"", self.connect_raw().recv(1))
        self.server.wait_for_log(
            r"drop connection #1 from 127\.0\.0\.1:\d+: past max_st"
        )
        # Connections that have logged in go on, and do not count.
        self.finish(process)
        waiting.pop().close()
        self.server.wait_for_records(2)
        another = self.log_in()
        # And when one has logged in.
        self.assertEqual(BANNER, self.connect_raw().recv(len(BANNER)))
        self.assertEqual(b"", self.connect_raw().recv(1))
        for each in (inside, another):
            self.assertServes(each)
        for each in (inside, another, *waiting):
            each.close()


class TestTries(LoginCase):
    """After six failed logins a client is disconnected."""

    def setUp(self):
        super().setUp()
        self.start_server()
        self.wrong = self.server.make_key("wrong")

    def assertCut(self, transport, exit="too many authentication failures"):
        transport.join(DEADLINE)
        self.assertFalse(transport.is_active())
        records = self.server.wait_for_records(1)
        self.assertEqual([exit], [record["exit"] for record in records])

    def fail(self, transport, count, *words):
        """Fail to log in for so many times, and be told each time."""
        words = words or ("alice", "password", False, "secret")
        refused = self.paramiko.AuthenticationException
        for _ in range(count):
            self.assertRaises(refused, self.authenticate, transport, *words)

    def test_five(self):
        """The sixth is a key that is known."""
        transport = self.open_transport()
        for _ in range(5):
            self.assertRaises(
                self.paramiko.AuthenticationException,
                *(self.present_key, transport, "alice", self.wrong),
            )
        self.present_key(transport, "alice")
        self.assertRefuses(transport)

    def test_keys(self):
        transport = self.open_transport()
        with contextlib.suppress(self.paramiko.SSHException, EOFError):
            for _ in range(6):
                with contextlib.suppress(self.paramiko.AuthenticationException):
                    self.present_key(transport, "bzr", self.wrong)
        self.assertCut(transport)

    def test_none(self):
        """The first "none", which asks for the methods, is no failure."""
        transport = self.open_transport()
        self.fail(transport, 6, "alice", "none")
        with contextlib.suppress(self.paramiko.SSHException, EOFError):
            self.fail(transport, 1, "alice", "none")
        self.assertCut(transport)

    def test_service_again(self):
        """A client cannot begin the service again, and the count with it."""
        transport = self.open_transport()
        self.fail(transport, 5)
        message = self.paramiko.Message(b"\x05" + string(b"ssh-userauth"))
        transport._send_message(message)
        self.assertCut(transport, "it asks for a service again")

    def test_other_service(self):
        transport = self.open_transport()
        fields = b"".join(map(string, (b"alice", b"ssh-userauth", b"none")))
        transport._send_message(self.paramiko.Message(b"\x32" + fields))
        self.assertCut(transport, "it wants to log in to another service")

    def test_endless_questions(self):
        """The number of questions whether a key would be accepted is bounded."""
        transport = self.open_transport()
        # paramiko takes the answers for something else, and would close.
        transport.auth_handler._parse_userauth_info_request = lambda message: None
        key = self.paramiko.PKey.from_path(self.key).asbytes()
        fields = (b"alice", b"ssh-connection", b"publickey")
        question = b"\x32" + b"".join(map(string, fields)) + b"\0"
        question += string(b"ssh-ed25519") + string(key)
        with contextlib.suppress(OSError, EOFError):
            for _ in range(200):
                transport._send_message(self.paramiko.Message(question))
        self.assertCut(transport, "too many packets without a login")


class TestBeforeLogin(LoginCase):
    """FAULT 42: before the login, packets are few and short."""

    def setUp(self):
        super().setUp()
        self.start_server()

    def assertCut(self, data, exit):
        """Who sends this is cut, with this in the log."""
        start = self.server.log_size()
        with self.connect_raw() as made, contextlib.suppress(OSError):
            # A banner may be no longer than 4 KiB, with all that comes in one go.
            made.sendall(BANNER + packet(b"\xff"))
            with made.makefile("rb") as answers:
                self.assertEqual(BANNER, answers.readline())
                for kind in (20, 3):
                    answer = answers.read(struct.unpack(">L", answers.read(4))[0])
                    self.assertEqual(kind, answer[1])
            made.sendall(data)
            while made.recv(65536):
                pass
        (record,) = self.server.wait_for_records(1, start)
        self.assertRegex(record["exit"], exit)

    def test_packets(self):
        """A packet that is too long is refused before it has arrived."""
        ignore = b"\x02" + string(b"x" * 34900)
        self.assertCut(packet(ignore) + b"\xff" * 100, "^not logged in$")
        for length in (35001, 1 << 20):
            head = struct.pack(">LB", length, 4) + b"\0" * 100
            self.assertCut(head, f"^it sent a packet of {length} bytes$")
        self.assertCut(packet(b"\x02" + b"x" * 36000), "^it sent a packet of 36")

    def test_number(self):
        for payload in (b"\x02" + string(b""), b"\x03\0\0\0\0", b"\x63"):
            data = packet(payload) * 500
            self.assertCut(data, "^too many packets without a login$")

    def test_without_keys(self):
        """No login begins on a connection that is not encrypted."""
        self.assertCut(SERVICE * 500, "^it asks for a service without keys$")

    def test_key_exchanges(self):
        """Each takes milliseconds of the reactor, so that there is one only."""
        half = packet(KEXINIT) + HALF_A_KEY
        self.assertCut(half * 2, "^it exchanges keys again without a login$")
        self.assertCut(half + HALF_A_KEY * 100, "^it sends keys that nobody has asked")
        self.assertCut(HALF_A_KEY, "^it sends keys that nobody has asked")
        again = self.paramiko.Transport(self.connect_raw())
        again.set_log_channel("brz.paramiko")
        self.addCleanup(again.close)
        again.start_client(timeout=DEADLINE)
        start = self.server.log_size()
        self.assertRaises(
            (EOFError, OSError, self.paramiko.SSHException), again.renegotiate_keys
        )
        (record,) = self.server.wait_for_records(1, start)
        self.assertRegex(record["exit"], "^it exchanges keys again")

    def test_name_in_the_log(self):
        """The name of an algorithm is not used as a format of a log line.

        Twisted would have made a line of a gigabyte of it.
        """
        name = b"{log_level.name:>3000000}"
        transport = self.open_transport()
        self.assertRaises(
            self.paramiko.AuthenticationException,
            self.authenticate,
            *(transport, "alice", "publickey", False, name, string(b"ssh-nothing")),
        )
        self.assertNotIn("Unsupported key type", self.server.log())
        self.assertLess(self.server.log_size(), 1 << 16)

    def test_private_key(self):
        """Bytes that are no user's public key are not parsed."""
        private = self.server.make_key("large", "rsa")
        with open(private, "rb") as file:
            blob = file.read()
        transport = self.open_transport()
        for _ in range(3):
            self.assertRaises(
                self.paramiko.AuthenticationException,
                self.authenticate,
                *(transport, "alice", "publickey", False, "rsa-sha2-512", blob),
            )
        self.present_key(transport, "alice")
        self.assertRefuses(transport)


class TestUnread(FlowCase):
    """FAULT 42: a client asks, and does not read what it is answered."""

    def ask_until_held(self, client, ask):
        """Ask until nothing more is taken for some time; the bytes that were."""
        done = [0]
        most = 48 << 20

        def go_on():
            with contextlib.suppress(OSError, EOFError):
                while done[0] < most:
                    done[0] += ask()

        thread = threading.Thread(target=go_on, daemon=True)
        thread.start()
        last = -1
        # While the server runs, it may still come to read more.
        while thread.is_alive() and (last != done[0] or self.server_runs()):
            last = done[0]
            thread.join(SECONDS)
        held = thread.is_alive()
        client.sock.shutdown(socket.SHUT_RDWR)
        client.sock.reading.set()
        thread.join(DEADLINE)
        self.assertTrue(held, f"all {done[0]} bytes were taken")

    def server_runs(self):
        with open(f"/proc/{self.server.pid}/stat") as stat:
            return stat.read().rpartition(") ")[2].startswith("R")

    def connect_unreading(self):
        """A client that has logged in and reads no more."""
        client = self.connect()
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            client.sock.setsockopt(socket.SOL_SOCKET, option, 1 << 16)
        client.sock.reading.clear()
        return client

    def test_requests(self):
        self.start()
        other = self.start_ssh()
        self.say_hello(other)
        client = self.connect_unreading()
        before = self.forget_peak()
        channel = b"\x5a" + string(b"direct-tcpip") + struct.pack(">3L", 1, 9999, 1024)

        def ask():
            for payload in (REQUEST, channel, b"\xc0" + string(b"ping")):
                client._send_message(paramiko.Message(payload))
            return 200

        self.ask_until_held(client, ask)
        self.assertMemoryFlat(before)
        # Nobody else has waited.
        self.say_hello(other)
        self.end_well(other)

    def test_in_a_key_exchange(self):
        """Answers that wait for the end of a key exchange are bounded as well."""
        self.start()
        client = self.connect_unreading()
        before = self.forget_peak()
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            client._send_message(paramiko.Message(KEXINIT))
            for _ in range(500_000):
                client._send_message(paramiko.Message(REQUEST))
        (record,) = self.server.wait_for_records(1)
        self.assertEqual("it does not come to an end of a key exchange", record["exit"])
        self.assertMemoryFlat(before)
