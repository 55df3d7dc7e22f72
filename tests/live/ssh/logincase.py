# SPDX-License-Identifier: GPL-2.0-or-later

"""What the tests share that log in to 'brz lp-serve-ssh' without OpenSSH's client."""

import signal
import socket
import struct
import threading

from breezy.tests import features

from ...harness import DEADLINE, wait_until
from .conchcase import ConchTestCase
from .sshcase import HELLO, SERVE

COMMAND = " ".join(SERVE)
#: The answer to "id". Without a service it shows that somebody has logged in.
REFUSED = "lp-serve-ssh: only 'bzr serve --inet' is allowed, not: id\n"
#: The first line of the server, and of clients here.
BANNER = b"SSH-2.0-lpserve\r\n"


def string(data):
    """*data* as a string of the protocol (:rfc:`4251`, section 5)."""
    return struct.pack(">L", len(data)) + data


def packet(payload):
    """A packet as long as nothing is encrypted (:rfc:`4253`, section 6)."""
    padding = 8 - (len(payload) + 5) % 8
    padding += 8 if padding < 4 else 0
    head = struct.pack(">LB", len(payload) + padding + 1, padding)
    return head + payload + b"\0" * padding


#: The payload of a KEXINIT that the server agrees with.
KEXINIT = (
    b"\x14"
    + b"\0" * 16
    + string(b"curve25519-sha256,ext-info-c")
    + string(b"ssh-ed25519")
    + b"".join(
        string(each) * 2 for each in (b"aes256-ctr", b"hmac-sha2-256", b"none", b"")
    )
    + b"\0" * 5
)


class LoginCase(ConchTestCase):
    """Clients that are paramiko's, step by step, or bytes of the test.

    :ivar paramiko: the module.
    """

    def setUp(self):
        super().setUp()
        self.requireFeature(features.paramiko)
        self.paramiko = features.paramiko.module

    def connect_raw(self):
        """A TCP connection."""
        made = socket.create_connection(("127.0.0.1", self.server.port), DEADLINE)
        self.addCleanup(made.close)
        return made

    def open_transport(self, sock=None):
        """A connection on which nobody has logged in."""
        made = self.paramiko.ServiceRequestingTransport(sock or self.connect_raw())
        # paramiko logs to the log of the test.
        made.set_log_channel("brz.paramiko")
        self.addCleanup(made.join, DEADLINE)
        self.addCleanup(made.close)
        self.addCleanup(made.packetizer.complete_handshake)  # ends its timer
        made.start_client(timeout=DEADLINE)
        made.ensure_session()
        made.auth_handler = made.get_auth_handler()
        return made

    def authenticate(self, transport, user, method, *fields):
        """Ask to be let in as *user* by *method*, of which these are the fields."""
        handler, event = transport.auth_handler, threading.Event()
        handler.auth_method, handler.username, handler.auth_event = method, user, event
        message = self.paramiko.Message()
        message.add_byte(b"\x32")
        for each in (user, "ssh-connection", method, *fields):
            (message.add_boolean if each in (True, False) else message.add_string)(each)
        transport._send_message(message)
        handler.wait_for_response(event)

    def present_key(self, transport, user, key=None):
        """Log in as *user* with alice's key, or with another."""
        key = self.paramiko.PKey.from_path(key or self.key)
        kind = key.get_name().replace("ssh-rsa", "rsa-sha2-512")
        handler = transport.auth_handler
        blob = handler._get_session_blob(key, "ssh-connection", user, kind)
        fields = (True, kind, key.asbytes(), key.sign_ssh_data(blob, kind))
        self.authenticate(transport, user, "publickey", *fields)

    def log_in(self, user="alice", key=None):
        """A connection on which *user* has logged in."""
        made = self.open_transport()
        self.present_key(made, user, key)
        return made

    def execute(self, transport, command=COMMAND, window=None):
        """A session in which *command* has been accepted.

        :param window: of how many bytes the client's window is.
        """
        session = transport.open_session(window, timeout=DEADLINE)
        session.settimeout(DEADLINE)
        session.exec_command(command)
        return session

    def end(self, session):
        """Read a session to its end: its exit status, output and errors."""
        parts = []
        for receive in (session.recv, session.recv_stderr):
            parts.append(b"")
            while chunk := receive(65536):
                parts[-1] += chunk
        wait_until(session.exit_status_ready, "the session has a status")
        session.close()
        return session.recv_exit_status(), parts[0], parts[1].decode()

    def assertHello(self, session):
        """This session is served, to its end."""
        session.sendall(b"hello\n")
        session.shutdown_write()
        self.assertEqual((0, HELLO, ""), self.end(session))

    def assertServes(self, transport):
        """A session on this connection is served."""
        self.assertHello(self.execute(transport))

    def assertRefuses(self, transport):
        """On this connection somebody has logged in."""
        self.assertEqual((64, b"", REFUSED), self.end(self.execute(transport, "id")))

    def assertIn_(self, *words):
        """``ssh`` with these words logs in; the line in the log."""
        start = self.server.log_size()
        done = self.ssh(*words, "id")
        self.assertEqual((64, REFUSED), (done.returncode, done.stderr.decode()))
        (record,) = self.server.wait_for_records(1, start)
        self.assertStartsWith(record["exit"], "64 (")
        return record

    def assertOut(self, *words):
        """``ssh`` with these words does not; the line in the log."""
        start = self.server.log_size()
        done = self.ssh(*words, "id")
        self.assertEqual((255, b""), (done.returncode, done.stdout))
        self.assertIn(b"Permission denied (publickey)", done.stderr)
        (record,) = self.server.wait_for_records(1, start)
        found = [record[name] for name in ("key", "command", "authenticated", "exit")]
        self.assertEqual(["-", "-", "-", "not logged in"], found)
        return record


class EndCase(LoginCase):
    def begin(self, **options):
        """Start both with these in the configuration."""
        self.configure(**options)
        self.start_service()
        self.start_server()

    def start_talking(self):
        """An ``ssh`` that is being served."""
        process = self.start_ssh()
        self.say_hello(process)
        return process

    def finish(self, process):
        """It is still served, and ends well."""
        self.say_hello(process)
        process.stdin.close()
        self.assertEqual(0, process.wait(DEADLINE))

    def hang_up(self):
        """Have the server read the configuration afresh."""
        self.server.signal(signal.SIGHUP)
        self.server.wait_for_log("configuration reloaded")
