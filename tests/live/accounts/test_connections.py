# SPDX-License-Identifier: GPL-2.0-or-later

"""What ``connections``, ``history``, ``metrics`` and ``status`` tell of connections."""

import json
import os
import signal
import subprocess

import breezy
from breezy import controldir
from breezy.bzr.smart import medium
from breezy.transport import remote

from ....lpserve.client import conversation
from ....lpserve.cmds.control import LONGEST_ANSWER
from ...harness import BY_DOOR, DEADLINE, LiveTestCase, read_line, wait_until


class AccountsTestCase(LiveTestCase):
    def tell(self, verb, *words):
        """What the service answers to a question about connections."""

        def opened(directory):
            talk = conversation.Conversation(directory)
            talk.longest = LONGEST_ANSWER
            return talk

        answer = conversation.ask(self.runtime, [verb, *words], DEADLINE, opened)
        return json.loads(answer[1])

    def running(self, **wanted):
        """The only connection, once it is told of with these values."""

        def found():
            running = self.tell("connections")
            same = len(running) == 1 and wanted.items() <= running[0].items()
            return running[0] if same else None

        return wait_until(found, f"a connection with {wanted}")

    def told(self, number):
        """The history, once it has so many connections."""

        wait_until(
            lambda: sum(each["count"] for each in self.made()) == number,
            f"{number} connections have ended",
        )
        return self.tell("history")

    def made(self):
        """How many connections have ended how, and through which door."""
        return self.tell("metrics")["connections"]


class TestConnections(AccountsTestCase):
    def test_life(self):
        """From the first byte to the last, through either door."""
        self.start_service("-Olpserve.spare_workers=0")
        branch = os.path.join(self.root, "some where", "é")
        os.makedirs(branch)
        controldir.ControlDir.create_branch_convenience(branch, force_new_tree=False)
        for number, (door, _) in enumerate(BY_DOOR, 1):
            self.check_life(door, number)
        made = {(each["result"], each["door"]): each["count"] for each in self.made()}
        self.assertEqual((1, 1), (made["ended", "fifo"], made["ended", "socket"]))
        metrics = self.tell("metrics")
        for name in ("hand_over", "first_byte", "duration"):
            found = metrics["histograms"][name]
            self.assertEqual((2, 2), (found["count"], found["buckets"][-1][1]), name)
        self.assertEqual(2, metrics["forks"])
        for name in ("service", "zygote", "workers"):
            self.assertGreater(metrics["processes"][name]["cpu"], 0, name)

    def check_life(self, door, number):
        client = "192.0.2.7 40000 22"
        connection = self.connect("alice", door, SSH_CLIENT=client).open()
        found = self.running(state="idle", door=door)
        self.assertEqual(
            (connection.pid, "alice", "192.0.2.7", "", 0, 0),
            tuple(
                found[name]
                for name in ("pid", "user", "peer", "verb", "requests", "bytes_out")
            ),
        )
        self.assertGreater(found["memory"], 1 << 20)
        url = "bzr://test/"
        self.permit_url(url)
        pipes = medium.SmartSimplePipesClientMedium(
            open(connection.stdout, "rb", closefd=False),  # noqa: SIM115
            open(connection.stdin, "wb", 0, closefd=False),  # noqa: SIM115
            url,
        )
        transport = remote.RemoteTransport(url, medium=pipes)
        there = transport.clone("some%20where/%C3%A9")
        controldir.ControlDir.open_from_transport(there).open_branch().last_revision()
        found = self.running(state="idle", repository="/some where/é")
        self.assertNotEqual("", found["verb"])
        self.assertGreater(found["bytes_in"], 100)
        self.assertGreater(found["bytes_out"], 100)
        there.has("a%20file")
        self.assertEqual("has", self.running(state="idle", verb="has")["verb"])
        connection.close()
        self.assertEqual(["exit", "0"], connection.end())
        ended = self.told(number)[-1]
        self.assertEqual(
            (connection.pid, "alice", "192.0.2.7", door, "ended", "exit 0"),
            tuple(
                ended[name] for name in ("pid", "user", "peer", "door", "how", "exit")
            ),
        )
        self.assertEqual(ended["requests"], sum(ended["verbs"].values()))
        self.assertEqual(1, ended["verbs"]["has"])
        self.assertIn("/some where/é", ended["repositories"])
        self.assertGreater(ended["cpu"], 0)
        self.assertGreater(ended["peak_memory"], 1 << 20)
        self.assertTrue(0 < ended["first_byte"] < ended["seconds"] + 0.001)
        self.assertLess(ended["since"], ended["until"])
        self.assertEqual([], self.tell("connections"))

    def test_killed(self):
        """What a worker had written is there when it could say nothing more."""
        self.start_service()
        connection = self.connect().open()
        self.assertEqual(b"ok\x012\n", connection.hello())
        os.kill(connection.pid, signal.SIGKILL)
        self.assertEqual(["signal", "9"], connection.end())
        [ended] = self.told(1)
        self.assertEqual(("failed", "signal 9"), (ended["how"], ended["exit"]))
        self.assertEqual({"hello": 1}, ended["verbs"])
        self.assertEqual(6, ended["bytes_in"])

    def test_worker_that_lies(self):
        """Whatever a worker writes is shown safely, and is about itself alone."""
        self.add_plugin(
            "liar",
            "import ctypes, os\n"
            "from breezy.bzr.smart import request\n"
            "def lie(self):\n"
            "    if os.environ.get('LPSERVE_USER') != 'liar':\n"
            "        return honest(self)\n"
            "    places = [line.split()[0].split('-')\n"
            "        for line in open('/proc/self/maps') if 'scoreboard' in line]\n"
            "    [(start, end)] = [(int(a, 16), int(b, 16)) for a, b in places]\n"
            "    assert end - start == 4096\n"
            "    ctypes.memset(start + 8, 0x1b, 4088)\n"
            "    return request.SuccessfulSmartServerResponse((b'ok', b'2'))\n"
            "honest, request.HelloRequest.do = request.HelloRequest.do, lie\n",
        )
        self.start_service()
        other, liar = self.connect("honest").open(), self.connect("liar").open()
        self.assertEqual(b"ok\x012\n", liar.hello())
        honest, lying = self.tell("connections")
        self.assertEqual(("honest", "idle", 0), self.shown(honest))
        self.assertEqual("liar", lying["user"])
        self.assertEqual(0x1B1B1B1B1B1B1B1B, lying["requests"])
        shown = self.control("connections")
        self.assertNotIn("\x1b", shown)
        for each in (liar, other):
            each.close()
            self.assertEqual(["exit", "0"], each.end())
        self.told(2)
        self.assertNotIn("\x1b", self.control("history"))

    @staticmethod
    def shown(found):
        return found["user"], found["state"], found["requests"]

    def control(self, *words):
        return self.run_brz("lp-serve-control", *words).stdout.decode()

    def test_commands(self):
        """Tables for persons, JSON for programs, and a look now and then."""
        self.start_service("-Olpserve.history=2")
        for user in ("one", "two", "three"):
            made = self.connect(user).open()
            made.close()
            self.assertEqual(["exit", "0"], made.end())
        wait_until(lambda: self.users() == ["two", "three"], "the last two are told of")
        head, line = self.control("history", "1").splitlines()
        self.assertIn("REPOSITORIES", head)
        self.assertIn("three", line)
        [found] = json.loads(self.control("history", "1", "--json"))
        self.assertEqual("three", found["user"])
        alice = self.connect("alice").open()
        self.assertEqual([], json.loads(self.control("connections", "--json"))[1:])
        watching = self.start_watching()
        head = read_line(watching.stdout.fileno())
        self.assertIn(b"STATE", head)
        self.assertIn(b"alice", read_line(watching.stdout.fileno()))
        self.assertIn(b"STATE", read_line(watching.stdout.fileno()))  # again
        watching.send_signal(signal.SIGINT)
        self.assertEqual(0, watching.wait(DEADLINE), watching.stderr.read())
        alice.close()
        status = self.control("status")
        self.assertIn(f", Breezy {breezy.__version__} (zygote ", status)

    def users(self):
        return [each["user"] for each in self.tell("history")]

    def start_watching(self):
        watching = subprocess.Popen(
            self.brz("lp-serve-control", "connections", "--watch"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.env,
        )
        self.addCleanup(self._end, watching)
        return watching
