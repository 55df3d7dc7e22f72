# SPDX-License-Identifier: GPL-2.0-or-later

"""Who may log in to 'brz lp-serve-ssh', what they may ask for, and what is logged."""

import base64
import os
import re
import socket
import struct
import subprocess
import threading

from breezy.tests import features

from ...harness import DEADLINE, wait_until
from .conchcase import ConchTestCase
from .sshcase import SERVE

COMMAND = " ".join(SERVE)
HELLO = b"ok\x012\n"
#: Who has logged in is told this: it takes no service to tell the others apart.
REFUSED = "lp-serve-ssh: only 'bzr serve --inet' is allowed, not: id\n"


def string(data):
    """*data* as a string of the protocol (:rfc:`4251`, section 5)."""
    return struct.pack(">L", len(data)) + data


def shown(data):
    """*data* of a client's as the log has it."""
    text = data.decode("utf-8", "replace")
    return "".join(each if each.isprintable() else "?" for each in text)


class LoginCase(ConchTestCase):
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
        # What it has to say is for the log of the test.
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
        made = self.open_transport()
        self.present_key(made, user, key)
        return made

    def execute(self, transport, command=COMMAND):
        """A session in which *command* has been accepted."""
        session = transport.open_session(timeout=DEADLINE)
        session.settimeout(DEADLINE)
        session.exec_command(command)
        return session

    def end(self, session):
        """What comes of a session: exit status, output and errors."""
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


class TestKeys(LoginCase):
    def test_whose(self):
        """One logs in with a key of one's own, as long as it is in the file."""
        server = self.server
        server.allow("bobs", "bob")
        unknown = server.make_key("unknown")
        server.add_host("unknown", "alice", unknown)
        server.add_host("nobody", "nobody", self.key)
        self.start_server()
        self.assertIn_("now")
        self.assertIn_("bobs")
        for words in ("unknown", "nobody", "-lalice bobs", "-lbob now"):
            self.assertOut(*words.split())
        # Without a restart.
        server.add_key("alice", unknown)
        self.assertIn_("unknown")
        server.remove_key("alice", self.key)
        self.assertOut("now")
        self.assertIn_("unknown")
        os.unlink(os.path.join(server.keys, "alice"))
        self.assertOut("unknown")
        # The shared account is somebody by the key, and has no key of its own.
        self.assertEqual("bob", self.assertIn_("-lbzr", "bobs")["user"])
        self.assertEqual("bzr", self.assertOut("-lbzr", "now")["user"])

    def test_kinds(self):
        self.start_server()
        for kind in ("rsa", "ecdsa", "ed25519"):
            key = self.server.allow(kind, kind, kind=kind)
            start = self.server.log_size()
            self.assertRefuses(self.log_in(kind, key))
            self.server.wait_for_records(1, start)
            self.assertEqual(self.server.fingerprint(key), self.assertIn_(kind)["key"])

    def test_agent(self):
        """Somebody has many keys, and only the last one is known here."""
        path = os.path.join(self.test_dir, "agent")
        words = ["ssh-agent", "-D", "-a", path]
        agent = subprocess.Popen(words, stdout=subprocess.DEVNULL, env=self.env)
        self.addCleanup(self._end, agent)
        self.addCleanup(agent.terminate)
        keys = [self.server.make_key(f"key{number}") for number in range(5)]
        wait_until(lambda: os.path.exists(path), "the agent has its socket")
        done = self.run_program(["ssh-add", "-q", *keys], SSH_AUTH_SOCK=path)
        self.assertEqual(0, done.returncode, done.stderr)
        self.server.add_key("alice", keys[-1])
        self.server.remove_key("alice", self.key)
        self.start_server()
        options = ("-oIdentitiesOnly=no", f"-oIdentityAgent={path}")
        record = self.assertIn_(*options, "now")
        self.assertEqual(self.server.fingerprint(keys[-1]), record["key"])

    def test_names(self):
        """A name that is no USER's is nobody's, and names no file."""
        # So that there is something to find.
        os.mkdir(os.path.join(self.server.keys, "sub"), 0o755)
        for place in ("sub/alice", ".alice", "-alice", "../alice", "al ice"):
            path = os.path.join(self.server.keys, place)
            os.link(os.path.join(self.server.keys, "alice"), path)
        self.start_server()
        names = (
            *(b"", b".", b"..", b"sub/alice", b"../alice", b"../keys/alice"),
            os.fsencode(os.path.join(self.server.keys, "alice")),
            *(b"alice\0", b"alice\0x", b"alice/", b"./alice", b"%61lice", b"a" * 65),
            *(b".alice", b"-alice", b"al ice", b"Alice", "\u00e4lice".encode()),
        )
        hostile = (b"alice" * 2000, b"\xff\xfe", b"alice\nx=1 y='", b"a' exit=0 key='1")
        refused = self.paramiko.AuthenticationException
        for several in (*(names[n::4] for n in range(4)), *([h] for h in hostile)):
            transport = self.open_transport()
            start = self.server.log_size()
            for name in several:
                self.assertRaises(refused, self.present_key, transport, name)
            transport.close()
            (record,) = self.server.wait_for_records(1, start)
            self.assertEqual(("not logged in", "-"), (record["exit"], record["key"]))
            self.assertEqual(shown(several[-1])[:300], record["user"])
        self.assertIn_("now")

    def test_methods(self):
        """There is nothing but keys."""
        self.start_server()
        transport = self.open_transport()
        with open(self.key + ".pub") as public:
            kind, blob = public.read().split()[:2]
        for method, *fields in (
            *(("none",), ("password", False, "secret"), (b"\xff",)),
            *(("keyboard-interactive", "", ""), ("gssapi-with-mic", "", "")),
            ("hostbased", kind, base64.b64decode(blob), "localhost", "root", "signed"),
        ):
            error = self.assertRaises(
                self.paramiko.BadAuthenticationType,
                self.authenticate,
                *(transport, "alice", method, *fields),
            )
            self.assertEqual(["publickey"], error.allowed_types)
        # It has not been cut, and the next one is let in.
        self.present_key(transport, "alice")
        self.assertRefuses(transport)


class TestRequests(LoginCase):
    """What there is to ask for besides the command of a Bazaar client."""

    def setUp(self):
        super().setUp()
        self.start_service()
        self.start_server()
        self.transport = self.log_in()

    def open_session(self):
        """A session in which nothing has been asked for."""
        made = self.transport.open_session(timeout=DEADLINE)
        made.settimeout(DEADLINE)
        return made

    def request(self, session, kind, rest):
        """Send a request of a session that wants no answer."""
        number = struct.pack(">L", session.remote_chanid)
        data = b"\x62" + number + string(kind) + b"\0" + rest
        self.transport._send_user_message(self.paramiko.Message(data))

    def test_commands(self):
        """A command is executed by nobody, whatever it is."""
        before = self.processes()
        mark = os.path.join(self.test_dir, "mark").encode()
        for command in (
            *(b"", b" ", b"ls", b"bzr", b"bzr init", b"bzr serve", b"serve --inet"),
            b"bzr serve --inet; touch " + mark,
            b"bzr serve --inet $(touch " + mark + b")",
            b"bzr serve --inet `touch " + mark + b"`",
            b"bzr serve --inet\ntouch " + mark,
            *(b"bzr serve --inet | ls", b"bzr serve --inet\0", b"bzr 'serve' --inet"),
            *(b"brz lp-serve-control shutdown", b"brz lp-serve --fork-server"),
            *(b"bzr serve --inet " * 600 + b"!", b"x" * 10000, b"\xff\xfe \x80"),
            "bzr serve --inet \u202e".encode(),
            b"ls' user=root peer=1.2.3.4 exit='0",
        ):
            start = self.server.log_size()
            text, plain = shown(command), re.sub("[^ -~]", "?", shown(command)[:80])
            line = f"only 'bzr serve --inet' is allowed, not: {plain}"
            end = self.end(self.execute(self.transport, command))
            self.assertEqual((64, b"", f"lp-serve-ssh: {line}\n"), end)
            (record,) = self.server.wait_for_records(1, start)
            self.assertEqual(1, self.server.log(start).count("\n"))
            self.assertEqual((f"64 ({line})", 13), (record["exit"], len(record)))
            self.assertEqual(text[:300] or "-", record["command"])
            self.assertEqual(("alice", "-"), (record["user"], record["served"]))
        self.assertEqual(before, self.processes())
        self.assertFalse(os.path.exists(mark))
        for program in ("bzr", "brz", "/opt/bzr-2.7/bin/bzr", "~/bin/brz"):
            command = f"{program} serve --inet --directory=/ --allow-writes"
            self.assertHello(self.execute(self.transport, command))

    def test_other_sessions(self):
        """No shell, no subsystem, no terminal, no variables, no agent, no X."""
        refused = self.paramiko.SSHException
        for ask in (
            lambda each: each.invoke_shell(),
            lambda each: each.invoke_subsystem("sftp"),
            lambda each: each.get_pty(),
            lambda each: each.request_x11(handler=print),
        ):
            error = self.assertRaises(refused, ask, self.open_session())
            self.assertEqual("Channel closed.", str(error))
        # In a session that they have been refused in, a command is served.
        session = self.open_session()
        for kind, rest in (
            (b"env", string(b"BRZ_EMAIL") + string(b"mallory")),
            *((b"env", b""), (b"auth-agent-req@openssh.com", b"")),
            (b"x11-req", string(b"MIT-MAGIC-COOKIE-1") * 2 + b"\0" * 4),
            (b"pty-req", string(b"xterm") + b"\0" * 16 + string(b"")),
            *((b"shell", b""), (b"subsystem", string(b"sftp"))),
            *((b"window-change", b"\0" * 16), (b"signal", string(b"KILL"))),
            *((b"break", b"\0" * 4), (b"exit-status", b"\0" * 4)),
            *((b"\xff\xfe", b"\xff"), (b"", b""), (b"exec", b"\0")),
        ):
            self.request(session, kind, rest)
        session.exec_command(COMMAND)
        self.assertHello(session)
        self.assertServes(self.transport)

    def test_forwarding(self):
        """No way into the network of the server, and none into the client's."""
        here = ("127.0.0.1", self.server.port)
        for kind, *places in (
            ("direct-tcpip", here, here),
            ("forwarded-tcpip", here, here),
            ("x11", None, here),
            *(("direct-streamlocal@openssh.com",), ("tun@openssh.com",)),
            *(("auth-agent@openssh.com",), ("nonsense",), ("",)),
        ):
            error = self.assertRaises(
                self.paramiko.ChannelException,
                *(self.transport.open_channel, kind, *places),
                timeout=DEADLINE,
            )
            self.assertEqual((1, "Administratively prohibited"), error.args, kind)
        for kind, *data in (
            ("tcpip-forward", "127.0.0.1", 0),
            ("cancel-tcpip-forward", "127.0.0.1", 1),
            ("streamlocal-forward@openssh.com", "/nonexistent/socket"),
            *(("no-more-sessions@openssh.com",), (b"\xff\xfe",)),
        ):
            self.assertIsNone(self.transport.global_request(kind, data), kind)
        self.assertServes(self.transport)

    def test_openssh(self):
        """The same where it is ssh that asks: all refused, the command is served."""
        options = ["-A", "-X", "-oLogLevel=INFO", "-oSetEnv=LANG=xx"]
        for where in ("0", "/nonexistent/socket"):
            options += ["-R", f"{where}:127.0.0.1:{self.server.port}"]
        done = self.ssh(*options, "now", *SERVE, stdin=b"hello\n")
        self.assertEqual((0, HELLO), (done.returncode, done.stdout), done.stderr)
        self.assertEqual(2, done.stderr.count(b"remote port forwarding failed"))
        done = self.ssh("-W", f"127.0.0.1:{self.server.port}", "now")
        self.assertEqual((255, b""), (done.returncode, done.stdout))
        self.assertIn(b"stdio forwarding failed", done.stderr)
        self.assertEqual(2, len(self.server.wait_for_records(2)))

    def test_order(self):
        """What comes too early, too late or twice confuses nobody."""
        execute = string(COMMAND.encode())
        for before in (b"", b"rubbish\n", b"x" * (2 << 20)):
            session = self.open_session()
            session.sendall(before)
            session.sendall_stderr(before)
            session.exec_command(COMMAND)
            # Again, and something else: refused, and the first goes on.
            for kind, again in (
                (b"exec", execute),
                (b"exec", string(b"ls")),
                (b"shell", b""),
            ):
                self.request(session, kind, again)
            self.assertHello(session)
        # Who will say nothing any more is not waited for.
        session = self.open_session()
        session.shutdown_write()
        self.request(session, b"exec", execute)
        self.assertEqual((0, b"", ""), self.end(session))
        # Twice what is refused, in one go, is refused once.
        session = self.open_session()
        self.request(session, b"exec", string(b"id"))
        self.request(session, b"exec", string(b"id"))
        self.assertEqual((64, b"", REFUSED), self.end(session))
        # Closed before the worker is there.
        for command in (execute, string(b"id")):
            session = self.open_session()
            self.request(session, b"exec", command)
            session.close()
        self.transport.close()
        wait_until(lambda: not self.workers_for("alice"), "the workers have ended")
        self.server.wait_until_at_rest()
        commands = sorted(r["command"] for r in self.server.wait_for_records(7))
        self.assertEqual([COMMAND] * 5 + ["id"] * 2, commands)
        self.assertServes(self.log_in())
