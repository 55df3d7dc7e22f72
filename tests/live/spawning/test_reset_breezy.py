# SPDX-License-Identifier: GPL-2.0-or-later

"""Breezy in a forked process: what clients would notice of a missing reset."""

import contextlib
import functools
import itertools
import os
import signal

from breezy import branch as _mod_branch
from breezy import controldir
from breezy.bzr.smart import medium
from breezy.lockdir import LockDir
from breezy.transport import get_transport_from_path, remote

from ...harness import HELLO, descriptors_of, read_line, wait_until
from ...processes import title_of
from .test_reset import ProbeCase

DOORS = ("fifo", "socket")


def everything_from(descriptor):
    """Read until the other end is closed."""
    found = b""
    while chunk := os.read(descriptor, 65536):
        found += chunk
    return found


def is_titled(pid):
    """Whether ps(1) shows that the process serves alice."""
    return title_of(pid) == "lp:alice"


class TestConnection(ProbeCase):
    def test_file_ids(self):
        """FAULT 28: two workers do not make the same file id."""
        self.start_service()
        self.rest()
        ids = {self.ask_once(b"file_id", door=door) for door in DOORS * 2}
        self.assertEqual(4, len(ids), ids)
        self.assertEqual([], [each for each in ids if "zygote" in each])
        self.take_out("reset_file_ids")
        self.assertEqual(["ok"], self.ask("reload"))
        ids = {self.ask_once(b"file_id") for _ in range(2)}
        self.assertEqual({"name-of-the-zygote-42"}, ids)

    def test_quit(self):
        """FAULT 30: SIGQUIT ends a worker, and opens no debugger."""
        self.start_service()
        for busy, door in itertools.product((False, True), DOORS):
            connection = self.connect(door=door).open()
            if busy:
                self.assertEqual(HELLO, connection.hello())
            else:
                wait_until(functools.partial(is_titled, connection.pid), "a title")
            os.kill(connection.pid, signal.SIGQUIT)
            self.assertEqual(["signal", "3"], connection.end())
            self.assertEqual(b"", everything_from(connection.stdout))
            self.assertEqual(b"", everything_from(connection.stderr))

    def test_prints(self):
        """FAULT 23: what a plug-in prints goes to stderr; it reads nothing."""
        self.start_service()
        for door in DOORS:
            self.check_prints(self.connect(door=door).open())

    def check_prints(self, connection):
        self.assertEqual("nothing to read", self.ask_probe(connection, b"print"))
        self.assertEqual(HELLO, connection.hello())
        os.close(connection.stdin)
        connection.stdin = -1
        self.assertEqual(b"", everything_from(connection.stdout))
        lines = everything_from(connection.stderr).decode().splitlines()
        for line in ("printed", "written", "written to the original", "complained"):
            self.assertIn(line, lines)
        # Nor what was printed before there was a connection.
        self.assertNotIn("printed by the zygote", lines)
        self.assertEqual(["exit", "0"], connection.end())

    def test_together(self):
        """FAULT 32: requests that arrive in one buffer are answered at once."""
        self.start_service("--client-timeout=600")
        for door in DOORS:
            self.check_together(self.connect(door=door).open())

    def check_together(self, connection):
        os.write(connection.stdin, b"hello\nhello\nprobe.file_id\nhello\n")
        self.assertEqual(HELLO, read_line(connection.stdout))
        self.assertEqual(HELLO, read_line(connection.stdout))
        self.assertStartsWith(read_line(connection.stdout).decode(), "ok\x01name-")
        self.assertEqual(HELLO, read_line(connection.stdout))
        os.write(connection.stdin, b"hello\nhel")
        self.assertEqual(HELLO, read_line(connection.stdout))
        os.write(connection.stdin, b"lo\n")
        self.assertEqual(HELLO, read_line(connection.stdout))
        connection.close()
        self.assertEqual(["exit", "0"], connection.end())

    def fail_in(self, connection):
        """Make a request that fails, so that something is logged."""
        os.write(connection.stdin, b"probe.fault\n")
        self.assertStartsWith(read_line(connection.stdout).decode(), "error\x01")

    def test_log(self):
        """FAULT 33: each connection opens the log itself, and rolls it over first."""
        self.start_service()
        self.rest()
        before, after = (self.connect(door=door).open() for door in DOORS)
        for connection in (before, after):
            self.assertEqual(HELLO, connection.hello())
            self.assertEqual([], self.logs_of(connection.pid))
        self.fail_in(before)
        with open(self.log, "a") as log:
            log.write("x" * ((4 << 20) + 1))
        self.fail_in(after)
        self.assertTrue(os.path.exists(self.log + ".old"))
        for connection, name in ((before, "brz.log.old"), (after, "brz.log")):
            path = os.path.join(os.path.dirname(self.log), name)
            self.assertEqual([path], self.logs_of(connection.pid))
            self.fail_in(connection)
            with open(path) as log:
                log.seek(max(0, os.path.getsize(path) - 4000))
                self.assertIn("ValueError: probed", log.read())
            connection.close()
            self.assertEqual(["exit", "0"], connection.end())
        # The service and the zygote would keep the one that they began with.
        status = self.status()
        self.assertEqual([], self.logs_of(status["pid"]))
        self.assertEqual([], self.logs_of(status["zygote"]))

    def logs_of(self, pid):
        return [path for path in descriptors_of(pid).values() if "brz.log" in path]

    def test_lock(self):
        """FAULT 34: a lock names the user and the process of the connection."""
        controldir.ControlDir.create_branch_convenience(
            os.path.join(self.root, "branch"), force_new_tree=False
        )
        self.start_service(BRZ_EMAIL="service@example.com")
        bob = "Bob <b@example.com>"
        for (user, env, name), door in itertools.product(
            (("alice", {}, "alice"), ("bob", {"BRZ_EMAIL": bob}, bob)), DOORS
        ):
            connection = self.connect(user, door, **env).open()
            with self.remote_branch(connection) as branch, branch.lock_write():
                held = self.lock_holder()
                self.assertEqual(name, held.get("user"))
                self.assertEqual(connection.pid, int(held.get("pid")))
            self.assertIsNone(self.lock_holder())
            self.assertEqual(["exit", "0"], connection.end())

    @contextlib.contextmanager
    def remote_branch(self, connection):
        """The branch, opened through a connection by Breezy's own client."""
        url = "bzr://service/"
        self.permit_url(url)
        with (
            open(os.dup(connection.stdout), "rb") as answers,
            open(os.dup(connection.stdin), "wb") as requests,
        ):
            opened = remote.RemoteTransport(
                url, medium=medium.SmartSimplePipesClientMedium(answers, requests, url)
            )
            yield _mod_branch.Branch.open_from_transport(opened.clone("branch"))
        connection.close()

    def lock_holder(self):
        """Who holds the lock of the branch."""
        path = os.path.join(self.root, "branch", ".bzr", "branch")
        return LockDir(get_transport_from_path(path), "lock").peek()


class TestMany(ProbeCase):
    def test_idle(self):
        """FAULT 31: with many connections open the idle time-out still works."""
        self.configure(client_timeout=600)
        self.start_service()
        opened = []
        for door in DOORS * 75:
            connection = self.connect(door=door).open()
            self.assertEqual(HELLO, connection.hello())
            self.assertTrue(max(descriptors_of(connection.pid)) < 100)
            opened.append(connection)
        self.configure(client_timeout=0.2)
        self.assertEqual(["ok"], self.ask("reload"))
        for door in DOORS:
            idle = self.connect(door=door).open()
            self.assertEqual(["exit", "0"], idle.end())
        # The others are as patient as they were told to be.
        wait_until(lambda: self.status()["workers"]["busy"] == 150, "one is gone")
        for connection in opened:
            self.finish(connection)


class TestExit(ProbeCase):
    def test_frames(self):
        """A worker that ends runs no "finally" or atexit handler of the zygote."""
        self.start_service()
        zygotes = [self.status()["zygote"]]
        # Disconnected, interrupted, failed before it served, idle for too long.
        for door in DOORS:
            self.ask_once(b"file_id", door=door)
            interrupted = self.connect(door=door).open()
            self.assertEqual(HELLO, interrupted.hello())
            os.kill(interrupted.pid, signal.SIGINT)
            self.assertEqual(["exit", "3"], interrupted.end())
        self.touch("break")
        for door in DOORS:
            self.assertEqual(["exit", "4"], self.connect(door=door).open().end())
        os.unlink(os.path.join(self.probe_home, "break"))
        self.configure(client_timeout=0.2)
        self.assertEqual(["ok"], self.ask("reload"))
        for door in DOORS:
            self.assertEqual(["exit", "0"], self.connect(door=door).open().end())
        zygotes.append(self.status()["zygote"])
        self.assertEqual(0, self.stop_service())
        self.assertEqual([f"finally {each}" for each in zygotes], self.notes())
        # Neither did a worker write what the zygote had not written yet.
        with open(os.path.join(self.probe_home, "unflushed")) as file:
            self.assertEqual("", file.read())
        self.assertEqual(2, self.log_text().count("printed by the zygote"))
