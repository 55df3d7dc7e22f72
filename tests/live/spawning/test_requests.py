# SPDX-License-Identifier: GPL-2.0-or-later

"""Requests at the control FIFO: what is answered, to whom, and what is not."""

import errno
import json
import os
import shlex
import signal
import subprocess

from ...harness import DEADLINE, HELLO, LiveTestCase, read_line, wait_until


class RequestsTestCase(LiveTestCase):
    def setUp(self):
        super().setUp()
        self.control = os.path.join(self.runtime, "control")

    def make_reply(self, name: str) -> int:
        """Make a reply FIFO; a descriptor that reads it."""
        path = os.path.join(self.runtime, "replies", name)
        os.mkfifo(path, 0o600)
        self.addCleanup(os.unlink, path)
        # Open for writing, too: there is no end of file when the service closes it.
        reply = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self.addCleanup(os.close, reply)
        return reply

    def answer_to(self, line: bytes, reply: int) -> list[str]:
        """Write *line* as it is; the words that arrive at *reply*."""
        self.write_control(line)
        return shlex.split(read_line(reply).decode())

    def refused(self, user: str = "alice", **env: str) -> list[str]:
        """The code and text of the error, the same through both doors."""
        answers = [self.connect(user, d, **env).answer for d in ("fifo", "socket")]
        self.assertEqual("error", answers[0][0])
        self.assertEqual(*answers)
        return answers[0][1:]


class TestVerbs(RequestsTestCase):
    def test_answers(self):
        self.start_service()
        reply = self.make_reply("me")
        version = self.status()["version"]
        pid = self.service.pid
        self.assertEqual(
            ["ok", "lpserve", version, f"pid={pid}"],
            self.answer_to(b"hello reply=me\n", reply),
        )
        ok, text = self.answer_to(b"status reply=me\n", reply)
        status = json.loads(text)
        self.assertEqual(("ok", pid, "running"), (ok, status["pid"], status["state"]))
        self.assertEqual(
            {"spare", "busy", "waiting", "starting", "queued"}, set(status["workers"])
        )
        for name in ("uptime", "doors", "generation", "totals", "refused", "warm"):
            self.assertIn(name, status)
        self.assertEqual(["ok"], self.answer_to(b"reload reply=me\n", reply))
        self.assertEqual(status["generation"] + 1, self.status()["generation"])
        self.assertNotEqual(status["zygote"], self.status()["zygote"])
        answer = self.answer_to(b"spawn alice reply=me\n", reply)
        self.assertEqual("ok", answer[0])
        parent = os.path.join(self.runtime, "connections")
        for path, name in zip(answer[2:], ("stdin", "stdout", "stderr"), strict=True):
            self.assertEqual(name, os.path.basename(path))
            self.assertEqual(parent, os.path.dirname(os.path.dirname(path)))
        self.assertEqual(0o700, os.stat(os.path.dirname(path)).st_mode & 0o777)
        os.kill(int(answer[1]), signal.SIGTERM)
        self.assertEqual(["signal", "15"], shlex.split(read_line(reply).decode()))
        self.assertEqual(["ok"], self.answer_to(b"shutdown reply=me\n", reply))
        self.assertEqual(0, self.service.wait(DEADLINE))

    def test_bad_requests(self):
        """They are answered and counted; tests/test_wire.py has the whole grammar."""
        self.start_service()
        reply = self.make_reply("me")
        bad = [
            b"quit",
            b"spawn alice bob",
            b"spawn ../alice",
            b"spawn alice env.1=x",
            b"spawn alice directory=/",
            b"spawn alice --directory=/",
            b"status json",
            b"shutdown now now",
            b"hello reply=you",  # with the one that is added: twice
            b"hello 'unfinished",
        ]
        for line in bad:
            answer = self.answer_to(line + b" reply=me\n", reply)
            self.assertEqual(["error", "bad-request"], answer[:2], line)
            self.assertEqual(3, len(answer), answer)
        self.write_control(b"spawn alice\n")
        self.wait_for_log("spawn needs reply=NAME")
        status = self.status()
        self.assertEqual({"bad-request": len(bad) + 1}, status["refused"])
        self.assertEqual(0, status["totals"]["spawned"])

    def test_denied_busy_failed(self):
        self.configure(max_workers=1, environment="LANG,BRZ_EMAIL")
        self.start_service()
        for name in ("LD_PRELOAD", "PATH", "TZ", "lang"):
            code, text = self.refused(**{name: "x"})
            self.assertEqual("denied", code)
            self.assertIn(name, text)
        [one] = self.serve("alice")
        self.assertEqual("busy", self.refused("bob")[0])
        self.finish(one)
        # A worker counts until it is reaped.
        self.settled_status()
        self.check_serves(doors=("fifo",), LANG="C", BRZ_EMAIL="a@b")
        self.settled_status()
        connections = os.path.join(self.runtime, "connections")
        os.rename(connections, connections + ".away")
        self.assertEqual(["error", "failed"], self.ask("spawn", "bob")[:2])
        os.rename(connections + ".away", connections)
        self.check_serves(doors=("fifo",))


class TestShell(RequestsTestCase):
    SCRIPT = """
    set -e
    cd "$1"
    mkfifo replies/me
    echo "hello reply=me" > control
    cat replies/me
    echo "spawn alice reply=me" > control
    exec 3< replies/me
    read ok pid in out err <&3
    echo $ok
    cat "$out" &
    cat "$err" &
    exec 4> "$in"
    echo hello >&4
    exec 4>&-
    wait
    cat <&3
    exec 3<&-
    echo "quit reply=me" > control
    cat replies/me
    rm replies/me
    echo shutdown > control
    """

    def test_sh_alone(self):
        self.start_service()
        for shell in ("sh", "bash"):
            if self.service.poll() is not None:
                self.start_service()
            done = self.run_program([shell, "-c", self.SCRIPT, shell, self.runtime])
            self.assertEqual((0, b""), (done.returncode, done.stderr))
            hello, ok, answer, end, error = done.stdout.splitlines()
            self.assertTrue(hello.startswith(b"ok lpserve "), hello)
            self.assertEqual((b"ok", HELLO, b"exit 0"), (ok, answer + b"\n", end))
            self.assertTrue(error.startswith(b"error bad-request '"), error)
            self.assertEqual(0, self.service.wait(DEADLINE))


class TestNoService(RequestsTestCase):
    def serve_without(self) -> None:
        """Run the client, which must serve the connection itself."""
        started = self.start_client("alice")
        try:
            out, err = started.communicate(b"hello\n", DEADLINE)
        except subprocess.TimeoutExpired:
            raise AssertionError("the client hangs") from None
        self.assertEqual((0, HELLO), (started.returncode, out), err)
        self.assertEqual(1, err.count(b"\n"), err)
        self.assertIn(b"serving this connection without it", err)

    def test_client_serves_itself(self):
        """FAULT 14: no directory, no FIFO, no reader, no FIFO at all."""
        self.configure(directory=self.root)
        self.serve_without()
        os.mkdir(self.runtime, 0o700)
        self.serve_without()
        with open(self.control, "w"):
            pass
        self.serve_without()
        os.unlink(self.control)
        # What a killed service leaves behind: a FIFO without a reader.
        self.start_service()
        zygote = self.status()["zygote"]
        self.service.kill()
        self.service.wait()
        wait_until(lambda: zygote not in self.processes(), "the zygote has ended too")
        error = self.assertRaises(
            OSError, os.open, self.control, os.O_WRONLY | os.O_NONBLOCK
        )
        self.assertEqual(errno.ENXIO, error.errno)
        self.serve_without()
        # The next service takes over what is left, and removes it at its end.
        self.start_service()
        self.check_serves()
