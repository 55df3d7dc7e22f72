# SPDX-License-Identifier: GPL-2.0-or-later

"""The socket of a real service: verbs, the worker's stdio, and who gets to it."""

import json
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
from ...harness import DEADLINE, descriptors_of, read_line, wait_until
from ...test_system import in_child
from .socketcase import HELLO, SocketTestCase

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
            time.sleep(0.01)
        return request.SuccessfulSmartServerResponse((b"done",))

request.request_handlers.register(b"long.wait", Long, info="read")
"""


class TestVerbs(SocketTestCase):
    def test_answers(self):
        """Several on one connection, and the same as those at the FIFO."""
        self.start_service()
        link = self.link()
        pid = self.service.pid
        hello = link.ask(b"hello")
        self.assertEqual(["ok", "lpserve", f"pid={pid}"], hello[:2] + hello[3:])
        status = json.loads(link.ask(b"status")[1])
        self.assertEqual((pid, "running"), (status["pid"], status["state"]))
        self.assertEqual(["control", "socket"], status["doors"])
        link.send(b"hello\nreload\n\nhello\nhello you\n")
        self.assertEqual(hello, link.answer())
        self.assertEqual(["ok"], link.answer())
        self.assertEqual(hello, link.answer())
        self.assertEqual(["error", "bad-request"], link.answer()[:2])
        self.assertEqual(status["generation"] + 1, self.status()["generation"])
        for line in (b"hello reply=me", b"spawn alice", b"quit", b"hello \0", b"\xff"):
            self.assertEqual(["error", "bad-request"], link.ask(line)[:2], line)
        self.assertEqual({"bad-request": 6}, self.status()["refused"])
        running = self.link().spawn()
        self.assertEqual(["ok"], link.ask(b"shutdown"))
        late = self.link()
        late.request()
        self.assertEqual(["error", "stopping"], late.answer()[:2])
        self.assertEqual([], late.answer())
        self.assertEqual("stopping", json.loads(link.ask(b"status")[1])["state"])
        self.assertEqual(HELLO, running.hello())
        self.assertEqual([["exit", "0"]], running.end())
        self.assertEqual([], link.answer())
        self.assertEqual(0, self.service.wait(DEADLINE))

    def test_long_path(self):
        """Longer than the address of a socket can be; and TERM at once at the end."""
        self.runtime = os.path.join(self.test_dir, *["long"] * 40)
        self.start_service()
        words = ["lp-serve-client", "--door", "socket", "--no-fallback", "alice"]
        done = self.run_program(words, b"hello\n")
        self.assertEqual((HELLO, b"", 0), (done.stdout, done.stderr, done.returncode))
        running = self.link().spawn()
        self.assertEqual(HELLO, running.hello())
        link = self.link()
        self.assertEqual(["ok"], link.ask(b"shutdown now"))
        self.assertEqual(["signal", "15"], running.answer())
        self.assertEqual([], running.answer())
        self.assertEqual([], link.answer())
        self.assertEqual(0, self.service.wait(DEADLINE))

    def test_many(self):
        """A hundred at once, for which the pool is small; and too many."""
        self.start_service()
        before = self.rest()
        links = [self.link() for _ in range(100)]
        for number, link in enumerate(links):
            link.request(f"user{number}")
        for link in links:
            answer = link.answer()
            self.assertEqual("ok", answer[0], answer)
            self.assertEqual(HELLO, link.hello())
        self.assertEqual(100, self.status()["workers"]["busy"])
        for link in links:
            self.assertEqual([["exit", "0"]], link.end())
        self.assertEqual(100, self.status()["totals"]["spawned"])
        self.configure(max_workers=2)
        self.assertEqual(["ok"], self.ask("reload"))
        self.check_refused()
        self.assertNothingGone(before)

    def check_refused(self):
        link, late = self.link(), self.link()
        with self.file("any") as any:
            link.send(b"spawn alice env.LD_PRELOAD=x env.LANG=C\n", any, any, any)
            self.assertEqual(["error", "denied"], link.answer()[:2])
            self.assertEqual([], link.answer())
            running = [self.link().spawn(), self.link().spawn("bob")]
            late.send(b"spawn alice\n", any, any, any)
            self.assertEqual(["error", "busy"], late.answer()[:2])
            self.assertFalse(self.of_service(any))
        for each in running:
            self.assertEqual(HELLO, each.hello())
            self.assertEqual([["exit", "0"]], each.end())
        self.assertServed()


class TestStdio(SocketTestCase):
    def test_descriptors(self):
        """FAULT 4, FAULT 10: as sshd gives them: a socket, and a file for errors."""
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
            self.assertEqual(sent, [opened.pop(number) for number in range(3)])
            # The channel and the connection, and what a spare worker has kept.
            kinds = sorted(name.split(":")[0] for name in opened.values())
            self.assertEqual(["socket"] * 2, [n for n in kinds if n != "/dev/null"])
            for number in range(3):
                with open(f"/proc/{pid}/fdinfo/{number}") as file:
                    flags = int(re.search(r"flags:\s*(\d+)", file.read())[1], 8)
                self.assertEqual(0, flags & os.O_NONBLOCK, number)
            self.assertFalse(self.of_service(theirs.fileno(), errors))
            with open(f"/proc/{pid}/comm") as comm:
                self.assertEqual("lp:alice\n", comm.read())
            theirs.close()
            ours.sendall(b"no such thing\n" + b"hello\n")
            ours.shutdown(socket.SHUT_WR)
            self.assertStartsWith(read_line(ours.fileno()), b"error\x01")
            self.assertEqual([["exit", "0"]], link.end())
            while read_line(ours.fileno()):
                pass
        self.check_what_is_there_already()
        self.assertNothingGone(before)

    def check_what_is_there_already(self):
        """A pipe whose writer has gone is read to its end."""
        link, (reader, writer) = self.link(), os.pipe()
        os.write(writer, b"hello\nhello\n")
        os.close(writer)
        with self.file("answers") as answers:
            link.send(b"spawn alice\n", reader, answers, answers)
            os.close(reader)
            self.assertEqual("ok", link.answer()[0])
            self.assertEqual([["exit", "0"]], link.end())
            self.assertEqual(HELLO * 2, os.pread(answers, 100, 0))

    def test_killed(self):
        """FAULT 7: of a worker the service tells; of a service nobody has to."""
        self.start_service()
        one, other = self.link().spawn(), self.link().spawn("bob")
        os.kill(one.pid, signal.SIGKILL)
        self.assertEqual([["signal", "9"]], one.end())
        self.assertEqual(HELLO, other.hello())
        both = self.link().spawn("carol")
        self.kill_service()
        self.assertEqual(HELLO, other.hello())
        self.assertEqual([["exit", "0"]], other.end())
        os.kill(both.pid, signal.SIGKILL)
        self.assertEqual([], both.end())
        self.remove_doors()


class TestClientGone(SocketTestCase):
    """As if an sshd had: SIGHUP, and in the end SIGTERM."""

    def begin_long_request(self):
        """A worker in the middle of a request, whose client goes then."""
        for name in ("begun", "go"):
            if os.path.exists(os.path.join(self.test_dir, name)):
                os.unlink(os.path.join(self.test_dir, name))
        link = self.link().spawn()
        os.write(link.stdin, b"long.wait\n")
        begun = os.path.join(self.test_dir, "begun")
        wait_until(lambda: os.path.exists(begun), "the request has begun")
        link.socket.close()
        # By the time that it answers the second it has seen that end.
        for _ in range(2):
            self.status()
        return link

    def test_running(self):
        """Our ends of its pipes stay open: it is the connection that counts."""
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
        """Before there was a worker for it: then it is nobody's turn."""
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
    """Who may ask; only root can be somebody else, so that others see less."""

    def setUp(self):
        super().setUp()
        # The directory of a test is closed to others.
        parent = tempfile.mkdtemp(prefix="lpserve-")
        self.addCleanup(shutil.rmtree, parent)
        os.chmod(parent, 0o711)
        self.runtime = os.path.join(parent, "run")

    def modes(self):
        paths = (self.runtime, os.path.join(self.runtime, "socket"))
        return [stat.S_IMODE(os.stat(path).st_mode) for path in paths]

    def as_nobody(self, run):
        """What *run* returns in a process of somebody else's."""

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
        self.assertServed()
        self.reload()
        self.assertEqual(0o600, self.modes()[1])

    def run_client(self):
        """The client, in this process: what it is may be closed to others."""
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
