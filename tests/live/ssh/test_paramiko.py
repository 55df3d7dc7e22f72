# SPDX-License-Identifier: GPL-2.0-or-later

"""'brz lp-serve-ssh' and paramiko: through Breezy, which brings it, and by hand."""

import os
import signal

from breezy.branch import Branch
from breezy.tests import features

from ...harness import DEADLINE, wait_until
from .conchcase import ConchTestCase
from .sshcase import SERVE

COMMAND = " ".join(SERVE)
HELLO = b"ok\x012\n"


class TestBreezy(ConchTestCase):
    """What people do, with the client that Breezy brings itself."""

    def setUp(self):
        super().setUp()
        self.requireFeature(features.paramiko)
        self.place = os.path.join(self.home, ".ssh")
        os.mkdir(self.place)

    def have_key(self, kind="rsa", name="id_rsa"):
        """Let alice log in with the only key that Breezy looks for."""
        key = self.server.make_key(name, kind)
        self.server.add_key("alice", key)
        os.symlink(key, os.path.join(self.place, name))

    def know_host(self, key):
        """Expect this host key; Breezy does not look at ports."""
        kind, text = key.split()[:2]
        with open(os.path.join(self.place, "known_hosts"), "w") as file:
            file.write(f"127.0.0.1 {kind} {text}\n")

    def brz_paramiko(self, *words, status=0):
        """Run ``brz`` with paramiko; its output and what it says."""
        done = self.run_program(self.brz(*words), BRZ_SSH="paramiko")
        self.assertEqual(status, done.returncode, done.stderr.decode())
        return done.stdout.decode(), done.stderr.decode()

    def test_work(self):
        """Branch, push, pull, commit in a checkout."""
        self.have_key()
        tree = self.make_history()
        self.start_service()
        self.start_server()
        self.know_host(self.server.public_host_key())
        url = f"bzr+ssh://alice@127.0.0.1:{self.server.port}/trunk"
        _, err = self.brz_paramiko("push", "-d", "source", url)
        self.assertEqual("Created new branch.\n", err)
        _, err = self.brz_paramiko("branch", url, "mine")
        self.assertEqual("Branched 3 revisions.\n", err)
        self.add_revisions(tree, 2)
        self.brz_paramiko("push", "-d", "source", url)
        # By her key.
        shared = url.replace("alice@", "bzr@")
        self.brz_paramiko("pull", "-d", "mine", shared)
        self.assertEqual(("5\n", ""), self.brz_paramiko("revno", url))
        for place in ("root/trunk", "mine"):
            branch = Branch.open(os.path.join(self.test_dir, place))
            self.assertEqual(tree.branch.last_revision(), branch.last_revision())
        self.brz_paramiko("bind", "-d", "mine", url)
        with open(os.path.join(self.test_dir, "mine", "file1"), "a") as file:
            file.write("from the checkout\n")
        _, err = self.brz_paramiko("commit", "-m", "bound", "mine")
        self.assertIn("Committed revision 6.", err)
        self.assertEqual(6, Branch.open(os.path.join(self.root, "trunk")).revno())
        records = self.server.wait_for_records(7)
        self.assertEqual({"alice"}, {each["user"] for each in records})
        self.assertEqual({"0"}, {each["exit"] for each in records})
        totals = self.status()["totals"]
        self.assertEqual((0, 0), (totals["failed"], totals["faults"]))

    def test_refusals(self):
        """An unknown key, and a host that is not the one that is known."""
        self.start_server()
        url = f"bzr+ssh://alice@127.0.0.1:{self.server.port}/trunk"
        self.know_host(self.server.public_host_key())
        _, err = self.brz_paramiko("revno", url, status=3)
        self.assertIn("Unable to authenticate to SSH host as", err)
        self.assertIn("supported auth types: ['publickey']", err)
        self.have_key()
        with open(self.key + ".pub") as other:
            self.know_host(other.read())
        _, err = self.brz_paramiko("revno", url, status=3)
        self.assertIn("Host keys for 127.0.0.1 do not match!", err)
        records = self.server.wait_for_records(2)
        self.assertEqual({"not logged in"}, {each["exit"] for each in records})


class TestByHand(ConchTestCase):
    """What a client sees that is not Breezy's and not OpenSSH's."""

    def setUp(self):
        super().setUp()
        self.requireFeature(features.paramiko)

    def log_in(self, key=None):
        """A connection of alice's."""
        import paramiko

        known = paramiko.HostKeys(self.server.known_hosts)
        [host_key] = known.lookup("lp-serve-ssh").values()
        made = paramiko.Transport(("127.0.0.1", self.server.port))
        # What it has to say is for the log of the test.
        made.set_log_channel("brz.paramiko")
        self.addCleanup(made.join, DEADLINE)
        self.addCleanup(made.close)
        pkey = paramiko.PKey.from_path(key or self.key)
        made.connect(hostkey=host_key, username="alice", pkey=pkey)
        return made

    def execute(self, transport, command=COMMAND):
        """A session in which *command* has been accepted."""
        session = transport.open_session(timeout=DEADLINE)
        session.settimeout(DEADLINE)
        session.exec_command(command)
        return session

    def everything_from(self, receive):
        """What comes until there is no more."""
        found = b""
        while chunk := receive(65536):
            found += chunk
        return found

    def assertEnd(self, session, status, out, err):
        self.assertEqual(out, self.everything_from(session.recv))
        self.assertEqual(err, self.everything_from(session.recv_stderr).decode())
        wait_until(session.exit_status_ready, "the session is over")
        self.assertEqual(status, session.recv_exit_status())
        session.close()

    def test_kinds_of_keys(self):
        self.start_service()
        self.start_server()
        for kind in ("ed25519", "ecdsa", "rsa"):
            key = self.server.make_key(kind, kind)
            self.server.add_key("alice", key)
            session = self.execute(self.log_in(key))
            session.sendall(b"hello\n")
            session.shutdown_write()
            self.assertEnd(session, 0, HELLO, "")

    def test_ends(self):
        """Exit status and stderr, each way in which a session can end."""
        self.start_service(f"--directory={self.root}/%u")
        self.start_server()
        transport = self.log_in()
        missing = "lp-serve: there is no directory to serve\n"
        self.assertEnd(self.execute(transport), 3, b"", missing)
        os.mkdir(os.path.join(self.root, "alice"))
        refused = "lp-serve-ssh: only 'bzr serve --inet' is allowed, not: id\n"
        self.assertEnd(self.execute(transport, "id"), 64, b"", refused)
        session = self.execute(transport)
        session.sendall(b"hello\nhel")
        self.assertEqual(HELLO, session.recv(100))
        [worker] = self.workers_for("alice")
        os.kill(worker, signal.SIGKILL)
        # A signal is no status; paramiko does not tell which it was.
        self.assertEnd(session, -1, b"", "")
        session = self.execute(transport)
        session.sendall(b"hello\n")
        session.shutdown_write()
        self.assertEnd(session, 0, HELLO, "")
        ends = [each["exit"] for each in self.server.wait_for_records(4)]
        self.assertEqual(["3", "signal 9", "0"], [ends[0], *ends[2:]])
        self.assertStartsWith(ends[1], "64 (only ")

    def test_many_sessions(self):
        """Each session of a connection is served by a worker of its own."""
        import paramiko

        self.start_service()
        self.start_server()
        transport = self.log_in()
        sessions = [self.execute(transport) for _ in range(10)]
        # In turn, and pieces of requests of all of them at once.
        for half in (b"hel", b"lo\n"):
            for session in sessions:
                session.sendall(half)
        for session in sessions:
            self.assertEqual(HELLO, session.recv(100))
        self.assertEqual(10, len(self.workers_for("alice")))
        refused = self.assertRaises(
            paramiko.ChannelException, transport.open_session, timeout=DEADLINE
        )
        self.assertEqual(4, refused.code)
        for session in sessions[:5]:
            session.shutdown_write()
            self.assertEnd(session, 0, b"", "")
        # The others have not noticed, and there is room for another.
        wait_until(lambda: len(self.workers_for("alice")) == 5, "five have ended")
        another = self.execute(transport)
        for session in [*sessions[5:], another]:
            session.sendall(b"hello\n")
            self.assertEqual(HELLO, session.recv(100))
        # All at once.
        transport.close()
        wait_until(lambda: not self.workers_for("alice"), "all have ended")
        records = self.server.wait_for_records(11)
        self.assertEqual(1, len({each["peer"] for each in records}))
        self.assertEqual(11, len({each["served"] for each in records}))
