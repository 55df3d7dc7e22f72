# SPDX-License-Identifier: GPL-2.0-or-later

"""'brz lp-serve-control': the administrator's view of the service."""

import json
import os
import signal

from ..harness import DEADLINE, LiveTestCase, wait_until


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

    def test_reload(self):
        """It returns when what was read afresh is in force."""
        self.start_service()
        before = self.status()["generation"]
        self.configure(max_workers=7)
        self.assertSays(self.control("reload"), "")
        self.assertEqual(before + 1, self.status()["generation"])

    def test_reload_fails(self):
        """The service says why it cannot, and goes on as it was."""
        self.start_service()
        self.configure(max_workers="many")
        before = self.status()
        done = self.control("reload")
        self.assertFails(done, 1, "failed: ", "lpserve.max_workers")
        self.assertEqual(before["zygote"], self.status()["zygote"])

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

    def test_shutdown_now(self):
        """Running connections are ended."""
        service = self.start_service()
        connection = self.connect().open()
        self.assertEqual(b"ok\x012\n", connection.hello())
        self.assertSays(self.control("shutdown", "--now"), "")
        self.assertEqual(["signal", "15"], connection.end())
        self.assertEqual(0, service.wait(DEADLINE))

    def test_shutdown_now_after_shutdown(self):
        """One who has waited long enough may say so."""
        service = self.start_service()
        connection = self.connect().open()
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
            (["status", "--now"], "--now goes with shutdown"),
            (["reload", "twice"], "reload takes no words, not 1"),
        ):
            self.assertFails(self.control(*words), 3, error)
        self.assertFails(self.control(), 3, "VERB")

    def test_no_service(self):
        for verb in ("hello", "status", "reload", "shutdown"):
            done = self.control(verb)
            self.assertFails(done, 69, "no service at " + self.runtime)

    def test_nobody_reads(self):
        """A control FIFO that a killed service left."""
        os.makedirs(os.path.join(self.runtime, "replies"), 0o700)
        control = os.path.join(self.runtime, "control")
        os.mkfifo(control, 0o600)
        self.assertFails(self.control("hello"), 69, "no service at " + self.runtime)
        os.unlink(control)

    def test_not_a_fifo(self):
        os.mkdir(self.runtime, 0o700)
        control = os.path.join(self.runtime, "control")
        with open(control, "w"):
            pass
        wanted = f"control in {self.runtime} is not a FIFO"
        self.assertFails(self.control("hello"), 69, wanted)
        self.assertEqual(0, os.path.getsize(control))
        os.unlink(control)

    def test_insecure_directory(self):
        """What others may write to is not trusted with a request."""
        service = self.start_service()
        service.send_signal(signal.SIGSTOP)  # it would soon take that away
        os.chmod(self.runtime, 0o777)
        done = self.control("hello")
        self.assertFails(done, 69, "is writable by others", "0777", "chmod")
        os.chmod(self.runtime, 0o700)
        service.send_signal(signal.SIGCONT)

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

    def test_after_a_kill(self):
        service = self.start_service()
        service.kill()
        service.wait()
        self.assertFails(self.control("hello"), 69, "no service at " + self.runtime)
        wait_until(lambda: not self.processes(), "its zygote and workers have ended")
        self.remove_doors()
