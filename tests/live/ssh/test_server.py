# SPDX-License-Identifier: GPL-2.0-or-later

"""Through 'brz lp-serve-ssh': what people do, and who they are to the server.

What is tested through sshd is tested here too, by the same methods: at the host
``now`` there is lp-serve-ssh; ``before`` stays what it was before all this, an
sshd that runs 'brz serve --inet'.
"""

import contextlib
import functools
import os

from breezy.branch import Branch
from breezy.bzr.smart.medium import SmartSimplePipesClientMedium
from breezy.lockdir import LockDir
from breezy.tests import features
from breezy.transport import get_transport_from_path
from breezy.transport.remote import RemoteTransport

from ...harness import DEADLINE, read_line
from . import test_connection, test_sshd
from .conchcase import ConchTestCase
from .sshcase import SERVE, SshTestCase

#: A plug-in with which a client can ask for the environment of its worker.
ENVIRON = """
import os
from breezy.bzr.smart import request

class Environ(request.SmartServerRequest):
    def do(self, name):
        value = os.environ.get(name.decode(), "(none)")
        return request.SuccessfulSmartServerResponse((value.encode(),))

request.request_handlers.register(b"environ", Environ, info="read")
"""


class _ThroughCase(ConchTestCase, SshTestCase):
    """The hosts of `SshTestCase`, of which ``now`` is an ``lp-serve-ssh``."""

    def setUp(self):
        super().setUp()
        self.server.include(self.sshd.config)
        self.start_server()

    def open_now(self):
        """`ConchTestCase` does it."""

    @property
    def ssh_program(self):
        return self.server.ssh if hasattr(self, "server") else self.sshd.ssh

    def wait_until_all_ended(self):
        super().wait_until_all_ended()
        self.server.wait_until_at_rest()

    def assertAllEndedWell(self):
        count = super().assertAllEndedWell()
        records = self.server.wait_for_records(count)
        ends = [(each["exit"], each["served"].split()[0]) for each in records]
        self.assertEqual([("0", "worker")] * count, ends)
        return count


class TestWork(_ThroughCase, test_sshd.TestWork):
    """What people do with a branch, each step the same as before."""


class TestProtocol(_ThroughCase, test_connection.TestProtocol):
    """Byte for byte what 'brz serve --inet' answers through sshd."""


class TestEnds(_ThroughCase, test_connection.TestEnds):
    """How a connection ends is known at both of its ends."""

    asker = "lp-serve"

    @staticmethod
    def status_of(number):
        # OpenSSH's client does not look at "exit-signal".
        return 255


class TestUsers(ConchTestCase):
    """Who somebody is who has logged in."""

    def publish(self, name, tree):
        """Have the branch of *tree* as it is now below what is served."""
        path = os.path.join(self.root, name)
        Branch.open(tree.basedir).controldir.sprout(path, create_tree_if_local=False)

    def test_who_is_served(self):
        """By the name that is logged in to, or by the key where all share one."""
        self.start_service(f"--directory={self.root}/%u")
        tree = self.make_history()
        for user in ("alice", "bob"):
            os.mkdir(os.path.join(self.root, user))
            self.publish(f"{user}/trunk", tree)
            self.add_revisions(tree, 1)
        bobs = self.server.allow("bobs", "bob")
        self.server.add_host("shared", "bzr", bobs)
        self.start_server()
        for url, revno, user in (
            ("bzr+ssh://now/trunk", 3, "alice"),
            ("bzr+ssh://bzr@now/trunk", 3, "alice"),
            ("bzr+ssh://bob@bobs/trunk", 4, "bob"),
            ("bzr+ssh://shared/trunk", 4, "bob"),
        ):
            start = self.server.log_size()
            done = self.run_brz("revno", url)
            self.assertEqual((f"{revno}\n".encode(), b""), (done.stdout, done.stderr))
            [record] = self.server.wait_for_records(1, start)
            self.assertEqual((user, "0"), (record["user"], record["exit"]))
            key = bobs if user == "bob" else self.key
            self.assertEqual(self.server.fingerprint(key), record["key"])
        # Nobody is somebody else for the asking.
        done = self.ssh("-l", "alice", "bobs", *SERVE)
        self.assertEqual((255, b""), (done.returncode, done.stdout))
        self.assertIn(b"Permission denied (publickey)", done.stderr)

    def test_what_a_worker_knows(self):
        """The environment is of what sshd sets, the user and the key's line."""
        self.add_plugin("environ", ENVIRON)
        self.publish("trunk", self.make_history())
        options = 'environment="BRZ_EMAIL=Bob <b@example.com>",no-pty,'
        options += 'environment="TZ=XYZ-9",environment="PATH=/nonexistent"'
        self.server.allow("bobs", "bob", account="bzr", options=options)
        self.start_server(BRZ_EMAIL="server@example.com", SSH_CLIENT="of the server")
        self.start_service(BRZ_EMAIL="service@example.com", SSH_CLIENT="of the service")
        self.assertEnvironment("worker", "now", "alice", "(none)")
        self.assertEnvironment("worker", "bobs", "Bob <b@example.com>", "XYZ-9")
        # As little as that can be set where there is no service.
        self.configure(directory=self.root, allow_writes=True)
        self.stop_service()
        self.assertEnvironment("process", "bobs", "Bob <b@example.com>", "XYZ-9")

    def assertEnvironment(self, kind, host, email, zone):
        """What whoever serves *host* has in the environment, and locks with."""
        # What a client wants to set is not set.
        wanted = "-oSetEnv=BRZ_EMAIL=mallory PATH=/mallory"
        process = self.start_ssh(wanted, [host, *SERVE])
        self.say_hello(process)
        self.assertEqual(email, self.ask_environ(process, "BRZ_EMAIL"))
        self.assertEqual(zone, self.ask_environ(process, "TZ"))
        self.assertEqual(self.env["PATH"], self.ask_environ(process, "PATH"))
        command = self.ask_environ(process, "SSH_ORIGINAL_COMMAND")
        self.assertEqual(" ".join(SERVE), command)
        client = self.ask_environ(process, "SSH_CLIENT").split()
        connection = self.ask_environ(process, "SSH_CONNECTION").split()
        port = str(self.server.port)
        self.assertEqual(("127.0.0.1", port), (client[0], client[2]))
        self.assertEqual([*client[:2], "127.0.0.1", port], connection)
        with self.remote_branch(process) as branch, branch.lock_write():
            held = self.lock_holder()
            self.assertEqual(email, held.get("user"))
        self.assertIsNone(self.lock_holder())
        start = self.server.log_size()
        process.stdin.close()
        self.assertEqual(0, process.wait(DEADLINE))
        [record] = self.server.wait_for_records(1, start)
        self.assertEqual(":".join(client[:2]), record["peer"])
        self.assertEqual(f"{kind} {held.get('pid')}", record["served"])

    def ask_environ(self, process, name):
        """The value of a variable in the environment of the worker."""
        os.write(process.stdin.fileno(), f"environ\x01{name}\n".encode())
        return read_line(process.stdout.fileno()).decode().rstrip("\n")

    @contextlib.contextmanager
    def remote_branch(self, process):
        """The branch ``trunk``, opened on that connection by Breezy's client."""
        url = "bzr+ssh://server/"
        self.permit_url(url)
        medium = SmartSimplePipesClientMedium(process.stdout, process.stdin, url)
        root = RemoteTransport(url, medium=medium)
        yield Branch.open_from_transport(root.clone("trunk"))

    def lock_holder(self):
        """Who holds the lock of the branch."""
        path = os.path.join(self.root, "trunk", ".bzr", "branch")
        return LockDir(get_transport_from_path(path), "lock").peek()


class TestParamiko(ConchTestCase):
    """With paramiko, the client that Breezy brings itself."""

    def test_work(self):
        """Push, branch and pull; alice is known by the name and by the key."""
        self.requireFeature(features.paramiko)
        tree = self.make_history()
        self.start_service()
        self.start_server()
        # Breezy looks for keys and hosts in these files, and not at ports.
        place = os.path.join(self.home, ".ssh")
        os.mkdir(place)
        key = self.server.make_key("id_rsa", "rsa")
        self.server.add_key("alice", key)
        os.symlink(key, os.path.join(place, "id_rsa"))
        with open(os.path.join(place, "known_hosts"), "w") as file:
            file.write(f"127.0.0.1 {self.server.public_host_key()}")
        url = f"bzr+ssh://alice@127.0.0.1:{self.server.port}/trunk"
        brz = functools.partial(self.run_brz, BRZ_SSH="paramiko")
        brz("push", "-d", "source", url)
        brz("branch", url, "mine")
        self.add_revisions(tree, 2)
        brz("push", "-d", "source", url)
        brz("pull", "-d", "mine", url.replace("alice@", "bzr@"))
        self.assertEqual(b"5\n", brz("revno", url).stdout)
        for path in ("root/trunk", "mine"):
            branch = Branch.open(os.path.join(self.test_dir, path))
            self.assertEqual(tree.branch.last_revision(), branch.last_revision())
        records = self.server.wait_for_records(5)
        ends = {(each["user"], each["exit"]) for each in records}
        self.assertEqual({("alice", "0")}, ends)
        totals = self.status()["totals"]
        self.assertEqual((0, 0), (totals["failed"], totals["faults"]))
