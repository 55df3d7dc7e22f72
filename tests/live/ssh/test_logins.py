# SPDX-License-Identifier: GPL-2.0-or-later

"""Who may log in to 'brz lp-serve-ssh', what they may ask for, and what is logged."""

import base64
import os
import re
import struct

from ...harness import DEADLINE, wait_until
from .logincase import COMMAND, REFUSED, LoginCase, string


def shown(data):
    """*data* of a client's as the log has it."""
    text = data.decode("utf-8", "replace")
    return "".join(each if each.isprintable() else "?" for each in text)


class TestKeys(LoginCase):
    def test_whose(self):
        """A user logs in with a key that is in the user's file at that time."""
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
        # At the shared account the key says who it is.
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

    def test_names(self):
        """A name that cannot be a USER logs nobody in, and opens no file."""
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
        """Keys are the only method."""
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
        # The connection has not been cut.
        self.present_key(transport, "alice")
        self.assertRefuses(transport)


class TestRequests(LoginCase):
    """Requests other than the command of a Bazaar client."""

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
        """No other command is executed; programs of any path are the service."""
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
        # After these are refused, the session serves a command.
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

    def test_order(self):
        """Requests and data that come too early, too late or twice."""
        execute = string(COMMAND.encode())
        for before in (b"", b"rubbish\n", b"x" * (2 << 20)):
            session = self.open_session()
            session.sendall(before)
            session.sendall_stderr(before)
            session.exec_command(COMMAND)
            # More requests are refused, and the first command goes on.
            for kind, again in (
                (b"exec", execute),
                (b"exec", string(b"ls")),
                (b"shell", b""),
            ):
                self.request(session, kind, again)
            self.assertHello(session)
        # The end of file may come before the command.
        session = self.open_session()
        session.shutdown_write()
        self.request(session, b"exec", execute)
        self.assertEqual((0, b"", ""), self.end(session))
        # A command that is refused, twice in one packet, is refused once.
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
