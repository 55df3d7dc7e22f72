# SPDX-License-Identifier: GPL-2.0-or-later

"""The socket of a real service: the worker's stdio, and who gets to it."""

import os
import pwd
import re
import shutil
import signal
import socket
import stat
import tempfile

from ....lpserve.client import client, conversation
from ....lpserve.client.socketconversation import SocketConversation
from ....lpserve.location import ENVIRONMENT
from ...harness import DEADLINE, HELLO, descriptors_of, read_line, wait_until
from ...test_system import in_child
from .socketcase import SocketTestCase

NOBODY = 65534

#: Requests that take until somebody makes a file: nothing tells a worker of that, so
#: it looks every 10 ms.
LONG = """
import os, time
from breezy.bzr.smart import request

class Long(request.SmartServerRequest):
    def do(self):
        open(os.environ["LONG"] + "/begun", "w").close()
        while not os.path.exists(os.environ["LONG"] + "/go"):
            time.sleep(0.01)  # until the test makes the file
        return request.SuccessfulSmartServerResponse((b"done",))

request.request_handlers.register(b"long.wait", Long, info="read")
"""


class TestStdio(SocketTestCase):
    def test_descriptors(self):
        """FAULTS 4 and 10: a worker has what sshd sends: a socket, and a file."""
        self.start_service()
        before = self.rest()
        link, (ours, theirs) = self.link(), socket.socketpair()
        theirs.setblocking(False)
        with ours, theirs, self.file("errors") as errors:
            link.send(b"spawn alice\n", theirs.fileno(), theirs.fileno(), errors)
            ok, pid = link.answer()
            self.assertEqual("ok", ok)
            ours.sendall(b"hello\n")
            self.assertEqual(HELLO, read_line(ours.fileno()))
            opened = descriptors_of(int(pid))
            sent = [os.readlink(f"/proc/self/fd/{theirs.fileno()}")] * 2
            sent.append(os.readlink(f"/proc/self/fd/{errors}"))
            self.assertEqual(sent, [opened[number] for number in range(3)])
            for number in range(3):
                with open(f"/proc/{pid}/fdinfo/{number}") as file:
                    flags = int(re.search(r"flags:\s*(\d+)", file.read())[1], 8)
                self.assertEqual(0, flags & os.O_NONBLOCK, number)
            # The worker may have answered before the service has closed them.
            sent = theirs.fileno(), errors
            wait_until(lambda: not self.of_service(*sent), "the service has none of it")
            theirs.close()
            ours.close()
            self.assertEqual([["exit", "0"]], link.end())
        self.assertNothingGone(before)


class TestClientGone(SocketTestCase):
    """The client closes its connection: its worker gets SIGHUP, then SIGTERM."""

    def begin_long_request(self):
        """Close a connection whose worker is in the middle of a request."""
        for name in ("begun", "go"):
            if os.path.exists(os.path.join(self.test_dir, name)):
                os.unlink(os.path.join(self.test_dir, name))
        link = self.link().spawn()
        os.write(link.stdin, b"long.wait\n")
        begun = os.path.join(self.test_dir, "begun")
        wait_until(lambda: os.path.exists(begun), "the request has begun")
        link.socket.close()
        # When the service answers the second it has seen the end of the connection.
        for _ in range(2):
            self.status()
        return link

    def test_running(self):
        """A worker ends although the client keeps its ends of the pipes open."""
        self.add_plugin("long", LONG)
        self.configure(hangup_timeout=600)
        self.start_service(LONG=self.test_dir)
        before = self.rest()
        idle = self.link().spawn()
        self.assertEqual(HELLO, idle.hello())
        idle.socket.close()
        self.assertEqual("exit 0", self.wait_for_end(idle.pid))
        self.assertEqual(b"", read_line(idle.stdout))
        long = self.begin_long_request()
        self.assertEqual(1, self.status()["workers"]["busy"])
        with open(os.path.join(self.test_dir, "go"), "w"):
            pass
        self.assertEqual(b"done\n", read_line(long.stdout))
        self.assertEqual("exit 0", self.wait_for_end(long.pid))
        self.configure(hangup_timeout=0.2)
        self.assertEqual(["ok"], self.ask("reload"))
        endless = self.begin_long_request()
        self.assertEqual("signal 15", self.wait_for_end(endless.pid))
        self.assertEqual(b"", read_line(endless.stdout))
        self.assertNothingGone(before)

    def test_waiting(self):
        """A client that goes before there is a worker for it does not get one."""
        self.configure(spare_workers=0, max_spare_workers=0)
        self.start_service()
        before = self.rest(0)
        zygote = self.status()["zygote"]
        os.kill(zygote, signal.SIGSTOP)
        try:
            links = [self.link() for _ in range(3)]
            for link in links:
                link.request()
            wait_until(lambda: self.status()["workers"]["waiting"] == 3, "they wait")
            links[1].close()
            wait_until(lambda: self.status()["workers"]["waiting"] == 2, "one went")
        finally:
            os.kill(zygote, signal.SIGCONT)
        for link in (links[0], links[2]):
            self.assertEqual("ok", link.answer()[0])
            self.assertEqual([["exit", "0"]], link.end())
        self.assertNothingGone(before, 0)


class TestPeers(SocketTestCase):
    """Who may ask. Only root can ask as another user; else less is checked."""

    def setUp(self):
        super().setUp()
        # Other users cannot enter the directory of a test.
        parent = tempfile.mkdtemp(prefix="lpserve-")
        self.addCleanup(shutil.rmtree, parent)
        os.chmod(parent, 0o711)
        self.runtime = os.path.join(parent, "run")

    def modes(self):
        paths = (self.runtime, os.path.join(self.runtime, "socket"))
        return [stat.S_IMODE(os.stat(path).st_mode) for path in paths]

    def as_nobody(self, run):
        """What *run* returns in a process of the user nobody."""

        def become_and_run():
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            return run()

        return in_child(become_and_run)

    def ask_as_nobody(self, *words):
        def ask():
            try:
                return conversation.ask(
                    self.runtime, list(words), door=SocketConversation
                )
            except conversation.NoService as error:
                return str(error)

        return self.as_nobody(ask)

    def reload(self, **options):
        """Have the service read new options; its log is read from now on."""
        self.configure(**options)
        self.assertEqual(["ok"], self.ask("reload"))
        return len(self.log_text())

    def test_peers(self):
        root = os.geteuid() == 0
        self.start_service()
        self.assertEqual([0o700, 0o600], self.modes())
        if root:
            self.assertContainsString(self.ask_as_nobody("hello"), "Permission denied")
        start = self.reload(allowed_peers=str(NOBODY - 1))
        self.assertEqual([0o711, 0o666], self.modes())
        for name in ("replies", "connections"):
            mode = os.stat(os.path.join(self.runtime, name)).st_mode
            self.assertEqual(0o700, stat.S_IMODE(mode))
        if root:
            answer = self.ask_as_nobody("shutdown")
            self.assertEqual(["error", "denied"], answer[:2])
            self.wait_for_log(f"refused: denied: uid {NOBODY}", start)
            self.assertEqual({"denied": 1}, self.status()["refused"])
            self.assertEqual("running", self.status()["state"])
            self.reload(allowed_peers=f"{NOBODY - 1}, {pwd.getpwuid(NOBODY).pw_name}")
            self.assertEqual("ok", self.ask_as_nobody("hello")[0])
            result = self.as_nobody(self.run_client)
            self.assertEqual([0, HELLO.decode()], result)
        self.check_serves()
        self.reload()
        self.assertEqual(0o600, self.modes()[1])

    def run_client(self):
        """Run the client in this process: nobody may not be able to read its file."""
        os.environ.pop("SSH_ORIGINAL_COMMAND", None)
        stdin, write = os.pipe()
        read, stdout = os.pipe()
        os.write(write, b"hello\n")
        os.close(write)
        os.dup2(stdin, 0)
        os.dup2(stdout, 1)
        settings = {
            "environment": ENVIRONMENT,
            "service_user": None,
            "autostart": False,
            "connect_timeout": DEADLINE,
        }
        status = client.serve("alice", self.runtime, settings, ["false"], False)
        return [status, os.read(read, 100).decode()]
