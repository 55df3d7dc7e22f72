# SPDX-License-Identifier: GPL-2.0-or-later

"""A service is told to reload, or to stop."""

import os
import signal
import time

from ....lpserve.client import conversation
from ...harness import DEADLINE, HELLO, LiveTestCase, read_line, wait_until
from ..faults.victims import is_gone

CHANGING = """
from breezy.bzr.smart import request

class Version(request.SmartServerRequest):
    def do(self):
        return request.SuccessfulSmartServerResponse((b"version", b"%s"))

request.request_handlers.register(b"changing.version", Version, info="read")
"""
#: Keeps a zygote from being ready until there is a file: it looks every 10 ms.
SLOW = """
import os, sys, time
while "--zygote" in sys.argv and not os.path.exists(%r):
    time.sleep(0.01)
"""


class TestReload(LiveTestCase):
    def setUp(self):
        super().setUp()
        self.add_plugin("changing", CHANGING % "first")

    def change(self, source):
        """Change the plug-in."""
        with open(os.path.join(self.plugins["changing"], "__init__.py"), "w") as file:
            file.write(source)

    def version(self, connection):
        """What the plug-in in a worker says."""
        os.write(connection.stdin, b"changing.version\n")
        return read_line(connection.stdout)

    def test_changes_are_seen(self):
        """FAULT 20: those of a plug-in, and of the configuration."""
        service = self.start_service()
        before = self.serve("alice")[0]
        self.assertEqual(b"version\x01first\n", self.version(before))
        for door in ("fifo", "socket"):
            denied = self.connect(door=door, PROBE="1")
            self.assertEqual(["error", "denied"], denied.answer[:2])
        self.change(CHANGING % "second one")
        self.configure(
            environment="PROBE", spare_workers=1, max_workers=2, queue_timeout=0
        )
        self.assertEqual(["ok"], self.ask("reload"))
        self.rest_beside(1)
        after = self.connect(door="socket", PROBE="1").open()
        self.assertEqual(b"version\x01second one\n", self.version(after))
        for door in ("fifo", "socket"):
            self.assertEqual(["error", "busy"], self.connect(door=door).answer[:2])
        self.assertEqual(2, self.status()["generation"])
        # Running connections go on with what they began with.
        self.assertEqual(b"version\x01first\n", self.version(before))
        self.finish(before, after)
        # The same by a signal.
        self.change(CHANGING % "the third of them")
        service.send_signal(signal.SIGHUP)
        wait_until(lambda: self.status()["generation"] == 3, "a third generation")
        last = self.serve("alice")[0]
        self.assertEqual(b"version\x01the third of them\n", self.version(last))
        self.finish(last)

    def rest_beside(self, busy):
        """Wait until the retired spare workers are gone and the new ones there."""

        def rested():
            workers = self.status()["workers"]
            return (workers["spare"], workers["busy"]) == (1, busy)

        wait_until(rested, "one spare worker")

    def test_broken(self):
        """A reload of what is broken fails, and the old generation keeps serving."""
        self.start_service()
        self.rest()
        self.change("raise SystemExit('it does not work')")
        answer = self.ask("reload")
        self.assertEqual(["error", "failed"], answer[:2])
        for text, words in (
            ("[DEFAULT]\nlpserve.max_workers = many\n", "lpserve.max_workers"),
            ("[DEFAULT\n", "breezy.conf"),
            ("[DEFAULT]\nlpserve.environment = \xff\n", "breezy.conf"),
        ):
            with open(self.config, "w", encoding="latin-1") as file:
                file.write(text)
            answer = self.ask("reload")
            self.assertEqual(["error", "failed"], answer[:2])
            self.assertIn(words, answer[2])
        status = self.status()
        self.assertEqual((1, 2), (status["generation"], status["workers"]["spare"]))
        self.assertEqual(0, status["totals"]["faults"])
        self.configure()
        served = self.serve(*"abcd")  # the spare ones, and new ones
        self.assertEqual(b"version\x01first\n", self.version(served[-1]))
        self.finish(*served)
        # Breezy leaves out a plug-in that raises an Exception when it is loaded.
        # (The file's length differs: Python compares that and the time in seconds.)
        self.change("raise ValueError('it does not work as it is')")
        self.assertEqual(["ok"], self.ask("reload"))
        connection = self.serve("alice")[0]
        self.assertStartsWith(self.version(connection).decode(), "error\x01")
        self.finish(connection)

    def test_nobody_waits(self):
        """Loading blocks no request; reloads that come meanwhile are not lost."""
        flag = os.path.join(self.test_dir, "flag")
        self.start_service()
        self.rest()
        self.change(SLOW % flag)
        asked = [conversation.Conversation(self.runtime) for _ in range(3)]
        for each in asked:
            self.addCleanup(each.close)
            each.send(["reload"], time.monotonic() + DEADLINE)
        connections = self.serve(*"abcd")
        self.assertEqual(b"version\x01first\n", self.version(connections[-1]))
        self.assertEqual([None] * 3, [each.read_answer() for each in asked])
        with open(flag, "w"):
            pass
        for each in asked:
            answer = each.wait_answer(time.monotonic() + DEADLINE)
            self.assertEqual(["ok"], answer)
        # The second and third began when the first had read everything already.
        self.assertEqual(3, self.status()["generation"])
        self.finish(*connections)


class TestShutdown(LiveTestCase):
    def assert_stopping(self):
        """Check that new requests are refused, because it stops."""
        wait_until(lambda: self.status()["state"] == "stopping", "it stops")
        for door in ("fifo", "socket"):
            self.assertEqual(["error", "stopping"], self.connect(door=door).answer[:2])
        self.assertEqual(["error", "stopping"], self.ask("reload")[:2])

    def test_graceful(self):
        """Running connections finish, however it is told to stop."""
        for tell in (
            lambda service: self.assertEqual(["ok"], self.ask("shutdown")),
            lambda service: service.send_signal(signal.SIGTERM),
            lambda service: service.send_signal(signal.SIGINT),
        ):
            service = self.start_service()
            opened = self.serve("alice", "bob")
            tell(service)
            self.assert_stopping()
            self.finish(opened[0])
            self.assert_stopping()
            self.finish(opened[1])
            self.assertEqual(0, service.wait(DEADLINE))
            self.assertEqual([], self.paths_left())

    def test_at_once(self):
        """A second signal, or "shutdown now", ends the connections."""
        for tell in (
            lambda service: self.assertEqual(["ok"], self.ask("shutdown", "now")),
            lambda service: service.send_signal(signal.SIGINT),
        ):
            service = self.start_service()
            opened = self.serve("alice", "bob")
            opened.append(self.connect("carol"))  # does not open its FIFOs
            service.send_signal(signal.SIGTERM)
            self.assert_stopping()
            tell(service)
            for connection in opened:
                self.assertEqual(["signal", "15"], connection.end())
                connection.close()
            self.assertEqual(0, service.wait(DEADLINE))

    def test_patience(self):
        """After shutdown_timeout connections are terminated, then killed."""
        self.configure(shutdown_timeout=0.3)
        service = self.start_service()
        opened = self.serve("alice", "bob")
        os.kill(opened[1].pid, signal.SIGSTOP)  # a process that TERM does not end
        service.send_signal(signal.SIGTERM)
        self.assertEqual(["signal", "15"], opened[0].end())
        self.assertEqual(["signal", "9"], opened[1].end())
        self.assertEqual(0, service.wait(DEADLINE))

    def test_while_starting(self):
        """It can be stopped before its doors are open."""
        flag = os.path.join(self.test_dir, "flag")
        self.add_plugin("slow", SLOW % flag)
        self.start_service_slowly()
        zygote = wait_until(self.find_zygote, "a zygote")
        self.service.send_signal(signal.SIGTERM)
        self.assertEqual(0, self.service.wait(DEADLINE))
        self.assertTrue(is_gone(zygote))
        self.assertNotIn("Traceback", self.log_text())

    def test_reload_is_answered(self):
        """FAULT 56: those who wait for a reload, or the next, are answered."""
        flag = os.path.join(self.test_dir, "flag")
        self.add_plugin("changing", "")
        service = self.start_service()
        self.rest()
        with open(os.path.join(self.plugins["changing"], "__init__.py"), "w") as file:
            file.write(SLOW % flag)
        asked = [conversation.Conversation(self.runtime) for _ in range(2)]
        for each in asked:
            self.addCleanup(each.close)
            each.send(["reload"], time.monotonic() + DEADLINE)
        self.wait_for_log("INFO reloading")
        connection = self.serve("alice")[0]
        self.assertEqual(["ok"], self.ask("shutdown"))
        for each in asked:
            answer = each.wait_answer(time.monotonic() + DEADLINE)
            self.assertEqual(["error", "stopping"], answer[:2])
        self.finish(connection)
        self.assertEqual(0, service.wait(DEADLINE))

    def start_service_slowly(self):
        """Start a service without waiting for it."""
        waiting, self.wait_for_log = self.wait_for_log, lambda *args: ""
        self.start_service()
        self.wait_for_log = waiting

    def find_zygote(self):
        for pid, line in self.processes().items():
            if "--zygote" in line:
                return pid
        return None

    def test_race(self):
        """FAULT 16: a client that comes while it is told to stop is always answered."""
        service = self.start_service()
        last = self.serve("alice")[0]  # so that the service is there until the end
        clients = []
        for number in range(50):
            door = ("--door", ("fifo", "socket")[number % 2])
            words = ("--no-fallback", f"user{number}")
            clients.append(self.start_client(*door, *words))
            if number == 30:
                service.send_signal(signal.SIGTERM)
        served = 0
        for each in clients:
            out, err = each.communicate(b"hello\n", DEADLINE)
            if each.returncode == 0:
                self.assertEqual((HELLO, b""), (out, err))
                served += 1
            else:
                self.assertEqual((b"", 69), (out, each.returncode), err)
                self.assertIn(b"stopping", err)
        self.assertEqual(served + 1, self.status()["totals"]["spawned"])
        self.assertEqual({"stopping": 50 - served}, self.status()["refused"])
        self.finish(last)
        self.assertEqual(0, service.wait(DEADLINE))

    def test_waiting_ones(self):
        """FAULT 16: an accepted client gets a worker, even if that is forked later."""
        self.configure(spare_workers=0)
        service = self.start_service()
        self.rest(0)
        zygote = self.status()["zygote"]
        os.kill(zygote, signal.SIGSTOP)
        asked = [self.ask_worker(f"user{n}", "socket") for n in range(10)]
        wait_until(
            lambda: self.status()["workers"]["waiting"] == 10, "they are waiting"
        )
        for number in range(10, 40):
            asked.append(self.ask_worker(f"user{number}", "fifo"))
            if number == 19:
                self.write_control(b"shutdown\n")
        self.assert_stopping()
        os.kill(zygote, signal.SIGCONT)
        for each in asked[20:]:
            self.assertEqual(["error", "stopping"], each.wait()[:2])
        for each in asked[:20]:
            self.assertEqual("ok", each.wait()[0])
            each.open()
        self.finish(*asked[:20])
        self.assertEqual(0, service.wait(DEADLINE))
