# SPDX-License-Identifier: GPL-2.0-or-later

"""'brz lp-serve-control': the administrator's view of the service."""

import json
import os

from ..harness import DEADLINE, LiveTestCase


class ControlTestCase(LiveTestCase):
    def control(self, *words, **env):
        return self.run_program(self.brz("lp-serve-control", *words), **env)

    def assertSays(self, done, text):
        self.assertEqual((0, b""), (done.returncode, done.stderr), str(done))
        self.assertEqual(text, done.stdout.decode())

    def assertFails(self, done, status, *texts):
        """It ended with *status* and one line that has all of *texts*."""
        self.assertEqual((status, b""), (done.returncode, done.stdout), str(done))
        self.assertEqual(1, done.stderr.count(b"\n"), str(done.stderr))
        for text in texts:
            self.assertContainsString(done.stderr.decode(), text)


class TestVerbs(ControlTestCase):
    def test_hello_and_status(self):
        service = self.start_service()
        connection = self.connect().open()
        version = self.status()["version"]
        hello = self.control("hello")
        self.assertSays(hello, f"lpserve {version} pid={service.pid}\n")
        # The runtime directory may be given, too.
        there = self.control("hello", "--runtime-dir", self.runtime)
        self.assertEqual(hello.stdout, there.stdout)

        done = self.control("status", "--json")
        self.assertEqual((0, b""), (done.returncode, done.stderr))
        self.assertEqual(1, done.stdout.count(b"\n"))
        status = json.loads(done.stdout)
        self.assertEqual(service.pid, status["pid"])
        self.assertEqual("running", status["state"])
        self.assertEqual(self.runtime, status["runtime_dir"])
        self.assertEqual(1, status["workers"]["busy"])
        self.assertEqual(1, status["totals"]["spawned"])

        done = self.control("status")
        self.assertEqual((0, b""), (done.returncode, done.stderr))
        rows = dict(
            map(str.strip, line.split("  ", 1))
            for line in done.stdout.decode().splitlines()
        )
        self.assertEqual(f"lpserve {version}, pid {service.pid}", rows["service"])
        self.assertStartsWith(rows["state"], "running, up ")
        self.assertEqual(self.runtime, rows["runtime directory"])
        self.assertEqual("control, socket", rows["doors"])
        self.assertContainsString(rows["workers"], "1 busy")
        self.assertContainsString(rows["totals"], "1 spawned")
        self.assertEqual("none", rows["refused"])
        connection.close()
        self.assertEqual(["exit", "0"], connection.end())

    def test_streams(self):
        self.start_service()
        heads = "STREAM  STATE  SIZE  LAST USED  USES  PID  USER  FOR\n"
        self.assertSays(self.control("streams"), heads)
        none = '{"kept": [], "making": [], "waiting": []}\n'
        self.assertSays(self.control("streams", "--json"), none)
        done = self.control("streams", "--drop")
        self.assertSays(done, "0 kept streams (0 B) are removed\n")
        done = self.control("streams", "--drop", "--json")
        self.assertSays(done, '{"dropped": 0, "bytes": 0}\n')

    def test_reload(self):
        """It returns when what was read afresh is in force."""
        self.start_service()
        before = self.status()["generation"]
        self.configure(max_workers=7)
        self.assertSays(self.control("reload"), "")
        self.assertEqual(before + 1, self.status()["generation"])

    def test_shutdown(self):
        """Running connections finish first; until then others are refused."""
        service = self.start_service()
        connection = self.connect().open()
        self.assertSays(self.control("shutdown"), "")
        self.assertEqual(b"ok\x012\n", connection.hello())
        self.assertEqual("stopping", self.status()["state"])
        self.assertFails(self.control("reload"), 1, "stopping: ")
        connection.close()
        self.assertEqual(["exit", "0"], connection.end())
        self.assertEqual(0, service.wait(DEADLINE))
        self.assertFails(self.control("hello"), 69, "no service at " + self.runtime)

    def test_shutdown_now_after_shutdown(self):
        """Running connections are ended."""
        service = self.start_service()
        connection = self.connect().open()
        self.assertEqual(b"ok\x012\n", connection.hello())
        self.assertSays(self.control("shutdown"), "")
        self.assertSays(self.control("shutdown", "--now"), "")
        self.assertEqual(["signal", "15"], connection.end())
        self.assertEqual(0, service.wait(DEADLINE))


class TestErrors(ControlTestCase):
    def test_usage(self):
        for words in (["restart"], ["he'llo"], [""]):
            self.assertFails(self.control(*words), 3, "unknown verb", "reload")
        for words, error in (
            (["hello", "--json"], "--json goes with status"),
            (["status", "--now"], "--now goes with end, shutdown"),
            (["status", "--watch"], "--watch goes with connections"),
            (["status", "--drop"], "--drop goes with streams"),
            (["streams", "drop"], "streams takes no words, not 1"),
            (["reload", "twice"], "reload takes no words, not 1"),
        ):
            self.assertFails(self.control(*words), 3, error)
        self.assertFails(self.control(), 3, "VERB")

    def test_no_service(self):
        for verb in ("hello", "status", "reload", "shutdown"):
            done = self.control(verb)
            self.assertFails(done, 69, "no service at " + self.runtime)

    def test_no_answer(self):
        """A service that does not answer is given up, and nothing is left."""
        os.makedirs(os.path.join(self.runtime, "replies"), 0o700)
        path = os.path.join(self.runtime, "control")
        os.mkfifo(path, 0o600)
        control = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self.addCleanup(os.close, control)
        self.configure(connect_timeout=0.3)
        self.assertFails(self.control("hello"), 69, "does not answer")
        self.assertStartsWith(os.read(control, 4096), b"\nhello reply=")
        self.assertEqual([], os.listdir(os.path.join(self.runtime, "replies")))
        os.unlink(path)
