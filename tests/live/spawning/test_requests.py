# SPDX-License-Identifier: GPL-2.0-or-later

"""Requests at the control FIFO: what is answered, to whom, and what is not."""

import errno
import json
import os
import shlex
import signal
import subprocess

from ...harness import DEADLINE, LiveTestCase, read_line, wait_until

HELLO = b"ok\x012\n"

#: A plug-in with which no zygote comes up while there is a certain file.
BREAKABLE = """
import os, sys
if "--zygote" in sys.argv and os.path.exists(os.environ["BROKEN"]):
    os._exit(7)
"""


class RequestsTestCase(LiveTestCase):
    def setUp(self):
        super().setUp()
        self.control = os.path.join(self.runtime, "control")

    def make_reply(self, name: str) -> int:
        """Make a reply FIFO; a descriptor that reads it."""
        path = os.path.join(self.runtime, "replies", name)
        os.mkfifo(path, 0o600)
        self.addCleanup(os.unlink, path)
        # For both, so that it does not end when the service closes it.
        reply = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self.addCleanup(os.close, reply)
        return reply

    def answer_to(self, line: bytes, reply: int) -> list[str]:
        """Write *line* as it is; the words that arrive at *reply*."""
        self.write_control(line)
        return shlex.split(read_line(reply).decode())

    def served(self, user: str = "alice", **env: str) -> None:
        """A whole connection through each door, which must go well."""
        for door in ("fifo", "socket"):
            connection = self.connect(user, door, **env).open()
            self.assertEqual(HELLO, connection.hello())
            connection.close()
            self.assertEqual(["exit", "0"], connection.end())
            # It counts until it is reaped.
            self.settled_status()

    def refused(self, user: str = "alice", **env: str) -> list[str]:
        """The answer to a request for a worker, the same at both doors."""
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
        self.start_service()
        reply = self.make_reply("me")
        bad = [
            b"quit",
            b"Hello",
            b"spawn",
            b"spawn alice bob",
            b"spawn ''",
            b"spawn -alice",
            b"spawn .alice",
            b"spawn ../alice",
            b"spawn 'al ice'",
            b"spawn alice\xc3\xa9",
            b"spawn " + b"a" * 65,
            b"spawn alice env.1=x",
            b"spawn alice env.=x",
            b"spawn alice env.LANG=C env.LANG=C",
            b"spawn alice directory=/",
            b"spawn alice allow_writes=1",
            b"spawn alice --directory=/",
            b"spawn env.LANG=C alice",
            b"hello you",
            b"hello env.LANG=C",
            b"status json",
            b"reload now",
            b"shutdown later",
            b"shutdown now now",
            b"hello reply=you",  # with the one that is added: twice
            b"hello 'unfinished",
            b"hello \\",
            b"hello \xff",
            b"hello \0",
            b"hello " + b"x" * 4096,
        ]
        for line in bad:
            answer = self.answer_to(line + b" reply=me\n", reply)
            self.assertEqual(["error", "bad-request"], answer[:2], line)
            self.assertEqual(3, len(answer), answer)
        status = self.status()
        self.assertEqual({"bad-request": len(bad)}, status["refused"])
        self.assertEqual(0, status["totals"]["spawned"])

    def test_unanswerable(self):
        """No reply, one that is not there, and one that is something else."""
        self.start_service()
        before = self.rest()
        file = os.path.join(self.runtime, "replies", "file")
        link = os.path.join(self.runtime, "replies", "link")
        with open(file, "w"):
            pass
        os.mkfifo(os.path.join(self.test_dir, "elsewhere"))
        os.symlink(os.path.join(self.test_dir, "elsewhere"), link)
        self.addCleanup(os.unlink, file)
        self.addCleanup(os.unlink, link)
        elsewhere = os.open(
            os.path.join(self.test_dir, "elsewhere"), os.O_RDWR | os.O_NONBLOCK
        )
        self.addCleanup(os.close, elsewhere)
        self.write_control(b"hello\nstatus\nspawn alice\nquit\n\n \n")
        self.wait_for_log("spawn needs reply=NAME")
        for name in ("nobody", "file", "link"):
            self.write_control(f"hello reply={name}\nspawn a reply={name}\n".encode())
            self.wait_for_log(f"no reader of replies/{name}")
        for name in ("../control", "a/b", ".hidden", "a" * 65, ""):
            self.write_control(f"hello reply={name}\n".encode())
        self.ask("hello")
        self.assertRaises(BlockingIOError, os.read, elsewhere, 1)
        with open(file) as found:
            self.assertEqual("", found.read())
        self.assertEqual(0, self.status()["totals"]["spawned"])
        self.rest(descriptors=before)

    def test_denied_busy_failed_stopping(self):
        broken = os.path.join(self.test_dir, "broken")
        self.add_plugin("breakable", BREAKABLE)
        self.configure(max_workers=1, environment="LANG,BRZ_EMAIL")
        self.start_service(BROKEN=broken)
        for name in ("LD_PRELOAD", "PATH", "TZ", "lang"):
            code, text = self.refused(**{name: "x"})
            self.assertEqual("denied", code)
            self.assertIn(name, text)
        self.served(LANG="C", BRZ_EMAIL="a@b")
        # One connection is as many as there may be.
        one = self.connect().open()
        self.assertEqual("busy", self.refused("bob")[0])
        one.close()
        self.assertEqual(["exit", "0"], one.end())
        self.settled_status()
        self.served()
        # Failed: a connection without FIFOs, a reload without a zygote, a reload
        # with a configuration that cannot be used. The service stays as it was.
        connections = os.path.join(self.runtime, "connections")
        os.rename(connections, connections + ".away")
        self.assertEqual(["error", "failed"], self.ask("spawn", "bob")[:2])
        os.rename(connections + ".away", connections)
        self.served()
        with open(broken, "w"):
            pass
        answer = self.ask("reload")
        self.assertEqual(["error", "failed"], answer[:2])
        self.assertIn("exit 7", answer[2])
        os.unlink(broken)
        self.configure(max_workers="many")
        answer = self.ask("reload")
        self.assertEqual(["error", "failed"], answer[:2])
        self.assertIn("max_workers", answer[2])
        self.served()
        # Stopping: the connection that is there goes on, there are no new ones.
        one = self.connect(door="socket").open()
        self.assertEqual(["ok"], self.ask("shutdown"))
        self.assertEqual(["error", "stopping"], self.ask("reload")[:2])
        self.assertEqual("stopping", self.refused("bob")[0])
        self.assertEqual("stopping", self.status()["state"])
        self.assertEqual(HELLO, one.hello())
        one.close()
        self.assertEqual(["exit", "0"], one.end())
        self.assertEqual(0, self.service.wait(DEADLINE))

    def test_shutdown_now(self):
        self.start_service()
        opened = [self.connect(door=door).open() for door in ("fifo", "socket")]
        for connection in opened:
            self.assertEqual(HELLO, connection.hello())
        self.write_control(b"shutdown now\n")
        for connection in opened:
            self.assertEqual(["signal", "15"], connection.end())
        self.assertEqual(0, self.service.wait(DEADLINE))


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
        """The real client, which must serve the connection itself."""
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
        # Its successor takes over what is left, and clears it at its end.
        self.start_service()
        self.served()
