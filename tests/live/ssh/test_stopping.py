# SPDX-License-Identifier: GPL-2.0-or-later

"""Rubbish, time-outs and stops: how 'brz lp-serve-ssh' and its connections end."""

import contextlib
import os
import random
import signal
import socket
import struct
import time

from ....lpserve.client.refusal import error_response
from ...harness import DEADLINE, DOORS, read_line, wait_until
from ..client.fake_service import REQUEST
from .logincase import BANNER, COMMAND, KEXINIT, EndCase, LoginCase, packet, string
from .sshcase import HELLO


class CutSocket:
    """A socket that raises EOFError after *count* writes."""

    def __init__(self, made, count):
        self._made, self._left = made, count

    def __getattr__(self, name):
        return getattr(self._made, name)

    def send(self, data):
        if not self._left:
            raise EOFError
        self._left -= 1
        return self._made.send(data)


class TestRubbish(LoginCase):
    def setUp(self):
        super().setUp()
        self.start_server()

    def assertUnharmed(self, count, exit="not logged in$|it (sent|sends|asks) "):
        """There is one line for each of *count* connections, and nothing else."""
        records = self.server.wait_for_records(count)
        self.assertEqual(count, len(records))
        for record in records:
            self.assertRegex(record["exit"], f"^{exit}")
        lines = self.server.log().splitlines()
        self.assertEqual([], [line for line in lines[1:] if "user=" not in line])
        self.server.wait_until_at_rest()

    def send(self, data):
        """Connect, send this, and close when the server has taken it or cut."""
        with self.connect_raw() as made, contextlib.suppress(OSError):
            made.sendall(data)
            made.shutdown(socket.SHUT_WR)
            while made.recv(65536):
                pass

    def test_no_ssh(self):
        """No banner, and packets that no client would send."""
        rubbish = random.Random(5).randbytes(30000)
        service = packet(b"\x05" + string(b"ssh-userauth"))
        ask = b"\x32" + string(b"alice") + string(b"ssh-connection")
        ask_key = ask + string(b"publickey")
        for number, data in enumerate(
            (
                *(b"", b"SSH-2.0-h", b"\n", b"SSH-\n", b"SSH-1.5-old\r\n", b"\0" * 100),
                *(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"hello\n"),
                *(rubbish, rubbish * 34, b"x" * (1 << 20), BANNER, BANNER + rubbish),
                *(BANNER + b"\xff" * 100, BANNER + b"\0" * 100),
                BANNER + struct.pack(">LB", 4, 200) + b"\0" * 100,
                BANNER + struct.pack(">LB", 12, 200) + b"\0" * 100,
                *(BANNER + packet(KEXINIT[:count]) for count in (0, 20, 60, -5)),
                BANNER + packet(KEXINIT.replace(b"ssh-ed25519", b"ssh-rsa")),
                BANNER + packet(KEXINIT.replace(b"hmac", b"hmuc")),
                BANNER + packet(KEXINIT.replace(b"curve", b"\xff\xfe")),
                BANNER + packet(KEXINIT) * 2,
                *(
                    BANNER + packet(KEXINIT) + packet(each)
                    for each in (b"\x15", b"\x1e")
                ),
                BANNER + packet(KEXINIT) + packet(b"\x1e" + string(b"\0" * 32)),
                *(BANNER + packet(b"\x15"), BANNER + packet(b"\x1e" + string(rubbish))),
                *(BANNER + service + packet(each) for each in (ask, ask_key)),
                BANNER + service + packet(ask_key + b"\1\0\0\0"),
                BANNER + service + packet(ask_key + b"\0" + string(b"\xff") * 2),
            ),
            1,
        ):
            self.send(data)
            self.assertUnharmed(number)
        self.assertRefuses(self.log_in())

    def test_every_message(self):
        """Every number of a message, with and without the service that knows it."""
        for number in range(256):
            self.send(BANNER + packet(bytes([number]) + b"\xff" * 8))
        for number in range(50, 80):
            transport = self.open_transport()
            data = bytes([number]) + b"\xff" * 8
            transport._send_message(self.paramiko.Message(data))
            transport.close()
        self.assertUnharmed(286)
        # The same after a login: messages of sessions that do not exist.
        for number in (50, *range(80, 101)):
            transport = self.log_in()
            data = bytes([number]) + b"\0\0\0\7" + b"\xff" * (number % 3)
            transport._send_user_message(self.paramiko.Message(data))
            transport.close()
        self.assertUnharmed(286 + 22, "not logged in$|it (sent|sends|asks) |-$")
        self.assertRefuses(self.log_in())

    def test_compression(self):
        """A small packet cannot become a large one."""
        self.assertIn_("-C", "now")
        made = self.paramiko.Transport(self.connect_raw())
        self.addCleanup(made.close)
        made.set_log_channel("brz.paramiko")
        made.use_compression()
        made.start_client(timeout=DEADLINE)
        self.assertEqual("none", made.local_compression)

    def test_cut(self):
        """A connection is lost at any step of a login."""
        count = 0
        while not (records := self.server.records()) or records[-1]["exit"][:2] != "64":
            made = CutSocket(self.connect_raw(), count)
            with contextlib.suppress(EOFError, OSError, self.paramiko.SSHException):
                transport = self.open_transport(made)
                self.present_key(transport, "alice")
                self.end(self.execute(transport, "id"))
                transport.close()
            made.close()
            count += 1
            self.server.wait_for_records(count)
        self.assertUnharmed(count, "not logged in$|-$|64 ")
        # For the banner, the keys (3), the login (2) and the session (2) at least.
        self.assertGreater(count, 8)


class TestLimits(EndCase):
    def test_grace(self):
        """login_grace_time ends connections before the login, and no others."""
        self.start_server()
        idle = self.log_in()
        self.configure(login_grace_time=0.5)
        self.hang_up()
        for data in (b"", BANNER):
            made = self.connect_raw()
            made.sendall(data)
            with contextlib.suppress(ConnectionResetError):
                while made.recv(65536):
                    pass
        for record in self.server.wait_for_records(2):
            self.assertEqual("no login within 0.5 seconds", record["exit"])
        self.assertRefuses(idle)

    def test_keepalive(self):
        """A client that answers nothing is given up, and its worker ends."""
        self.begin(keepalive_interval=1)
        stopped, living = self.start_talking(), self.start_talking()
        stopped.send_signal(signal.SIGSTOP)
        self.addCleanup(stopped.send_signal, signal.SIGCONT)
        (record,) = self.server.wait_for_records(1)
        self.assertIn("(the client does not answer)", record["exit"])
        self.finish(living)
        stopped.send_signal(signal.SIGCONT)
        self.assertEqual(255, stopped.wait(DEADLINE))

    def test_line(self):
        """The log line of a connection."""
        self.begin()
        before = time.time()
        transport = self.open_transport(sock := self.connect_raw())
        self.present_key(transport, "bzr")
        session = self.execute(transport)
        session.sendall(b"hello\n")
        self.assertEqual(HELLO, session.recv(100))
        (worker,) = self.workers_for("alice")
        self.assertEqual([], self.server.records())
        self.assertHello(session)
        [record] = self.server.wait_for_records(1)
        times = [float(record["accepted"])]
        for name in ("authenticated", "ready", "first_byte", "end"):
            self.assertRegex(record[name], r"^\+\d+\.\d{3}$")
            times.append(times[0] + float(record[name]))
        # The log has milliseconds.
        times = [before - 0.01, *times, time.time() + 0.01]
        self.assertEqual(times, sorted(times))
        names = ("user", "key", "command", "served", "received", "sent", "exit")
        key, sent = self.server.fingerprint(self.key), str(2 * len(HELLO))
        wanted = ["alice", key, COMMAND, f"worker {worker}", "12", sent, "0"]
        self.assertEqual(wanted, [record[name] for name in names])
        self.assertEqual("{}:{}".format(*sock.getsockname()), record["peer"])
        # A connection without a session has a line as well.
        transport.close()
        self.log_in().close()
        idle = self.server.wait_for_records(2)[1]
        found = [idle[name] for name in ("user", "command", "served", "exit")]
        self.assertEqual(["alice", "-", "-", "-"], found)
        self.assertEqual("+", idle["authenticated"][0])
        self.assertEqual(2, len(self.server.records()))


class TestEnd(EndCase):
    """The server is told to stop, or killed."""

    def stop(self, number=signal.SIGTERM):
        """Send the signal, and wait until the server has it."""
        start = self.server.log_size()
        self.server.signal(number)
        self.server.wait_for_log("stopping; sessions that may finish", start)

    def assertRestarts(self):
        """It has ended, and another can take its place at once."""
        self.start_server(f"--listen=127.0.0.1:{self.server.port}")
        self.assertServes(self.log_in())

    def test_graceful(self):
        """Sessions finish; connections without one are closed, new ones refused."""
        self.begin()
        for number in (signal.SIGTERM, signal.SIGINT):
            process, idle, busy = self.start_talking(), self.log_in(), self.log_in()
            half, silent = self.open_transport(), self.connect_raw()
            session = self.execute(busy)
            session.sendall(b"hello\n")
            self.assertEqual(HELLO, session.recv(100))
            start = self.server.log_size()
            self.stop(number)
            for each in (idle, half):
                each.join(DEADLINE)  # it ends with the connection
            while silent.recv(65536):
                pass
            self.assertRaises(ConnectionRefusedError, self.connect_raw)
            # A new session on an old connection.
            refused = (75, b"", "lp-serve-ssh: the server is stopping\n")
            unanswered = self.execute(busy)
            unanswered.shutdown_write()
            self.assertEqual(refused, self.end(unanswered))
            answered = self.execute(busy)
            answered.sendall(REQUEST)
            answer = error_response("the server is stopping")
            self.assertEqual((75, answer, ""), self.end(answered))
            self.finish(process)
            self.assertTrue(self.server.running())
            self.assertHello(session)
            self.assertEqual(0, self.server.wait())
            ends = [record["exit"] for record in self.server.records(start)]
            wanted = ["-", "0", "0", *["75 (the server is stopping)"] * 2]
            self.assertEqual([*wanted, "not logged in", "not logged in"], sorted(ends))
            self.assertRestarts()

    def fill(self, process):
        """Have a worker send much to an ``ssh`` that is stopped."""
        with open(os.path.join(self.root, "large"), "wb") as large:
            large.truncate(64 << 20)
        os.write(process.stdin.fileno(), b"get\x01large\n")
        self.assertEqual(b"ok\n", read_line(process.stdout.fileno()))
        process.send_signal(signal.SIGSTOP)
        self.addCleanup(process.send_signal, signal.SIGCONT)

    def test_patience(self):
        """After shutdown_timeout all sessions are cut, read from or not."""
        self.begin(shutdown_timeout=0.5)
        waiting, reading = self.start_talking(), self.start_ssh()
        self.fill(reading)
        self.stop()
        self.assertEqual(0, self.server.wait())
        reading.send_signal(signal.SIGCONT)
        self.assertEqual(255, waiting.wait(DEADLINE))
        reading.stdout.close()
        self.assertEqual(255, reading.wait(DEADLINE))
        ends = [record["exit"].partition(" ")[2] for record in self.server.records()]
        self.assertEqual(["(not over after 0.5 s)"] * 2, ends)
        self.assertRestarts()

    def test_twice(self):
        """A second signal cuts at once; a worker that hangs is not waited for."""
        self.begin()
        opened = [self.start_talking(), self.start_talking()]
        hanging = self.workers_for("alice")[0]
        opened.append(self.start_ssh())
        self.fill(opened[2])
        os.kill(hanging, signal.SIGSTOP)
        self.addCleanup(os.kill, hanging, signal.SIGKILL)
        self.stop()
        self.server.signal(signal.SIGINT)
        self.assertEqual(0, self.server.wait())
        self.assertEqual([255] * 2, [each.wait(DEADLINE) for each in opened[:2]])
        opened[2].kill()
        self.assertEqual([], os.listdir(os.path.join(self.runtime, "replies")))

    def test_killed(self):
        """Nothing is left of a server that was killed."""
        self.begin()
        opened = [self.start_talking(), self.start_ssh()]
        self.fill(opened[1])
        self.server.kill()
        opened[1].kill()
        self.assertEqual(255, opened[0].wait(DEADLINE))
        self.rest()
        # The service finds what nobody could remove.
        wait_until(lambda: self.paths_left() == DOORS, "nothing is left")
        self.assertRestarts()

    def test_another_service(self):
        """The service is reloaded and restarted beneath it."""
        self.begin()
        process, old = self.start_talking(), self.log_in()
        self.assertEqual(["ok"], self.ask("reload"))
        self.assertServes(old)
        self.finish(process)
        self.rest()
        for stop in (self.stop_service, lambda: self.service.kill()):
            stop()
            self.service.wait()
            self.start_service()
            self.assertServes(old)
            self.assertServes(new := self.log_in())
            new.close()
            wait_until(lambda: self.status()["totals"]["ended"] == 2, "two have ended")
        old.close()
        served = {each["served"].split()[0] for each in self.server.wait_for_records(6)}
        self.assertEqual({"worker"}, served)

    def test_many(self):
        """Two hundred connections leave no descriptor and no memory in use."""
        self.begin()

        data = (b"", BANNER, b"x" * 5000, BANNER + b"x" * 50)

        def come(count):
            for number in range(count):
                if number % 10 == 0:
                    self.assertServes(transport := self.log_in())
                    transport.close()
                else:
                    with self.connect_raw() as made:
                        made.sendall(data[number % 4])

        come(50)
        self.server.wait_for_records(50)
        self.server.wait_until_at_rest()
        before = self.server.rss()
        come(150)
        self.assertEqual(200, len(self.server.wait_for_records(200)))
        self.server.wait_until_at_rest()
        self.assertLess(self.server.rss() - before, 150 * 8192)
