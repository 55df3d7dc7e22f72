# SPDX-License-Identifier: GPL-2.0-or-later

"""Workers, and ``brz lp-serve --inet``, stay inside and answer everything."""

import os
import select
import time

from breezy import urlutils
from breezy.tests.scenarios import load_tests_apply_scenarios

from ...harness import BY_DOOR, DEADLINE
from ...serving.smartcase import Request, decode
from ...serving.smartverbs import CHANGES, VERBS, requests
from ...serving.test_containment import snapshot
from ..warm.warmcase import WarmCase

load_tests = load_tests_apply_scenarios

FILES = [verb for verb in VERBS if verb.islower() and verb not in (b"hello",)]


class StayingCase(WarmCase):
    """Requests are written to a worker by hand."""

    def request(self, connection, request):
        """The bytes of the answer, in the third format."""
        os.write(connection.stdin, request.encode(3))
        data, deadline = b"", time.monotonic() + DEADLINE
        while True:
            left = deadline - time.monotonic()
            self.assertTrue(
                select.select([connection.stdout], [], [], left)[0],
                f"no answer to {request}: {data!r}",
            )
            part = os.read(connection.stdout, 1 << 16)
            self.assertNotEqual(b"", part, f"{request}: {data!r}")
            data += part
            try:
                return decode(data, 3), data
            except ValueError:
                continue

    def finish_by_hand(self, connection):
        """Hang up, and wait until the worker has ended well."""
        connection.close()
        self.assertEqual(["exit", "0"], connection.end())


class TestOutside(StayingCase):
    """FAULTS 35, 36 and 37, in workers."""

    scenarios = BY_DOOR
    warm = 0

    def test_user(self):
        """What belongs to another user is out of reach.

        tests/serving/test_containment.py has all ways to write such a path.
        """
        for path in ("users/alice", "users/outside"):
            os.makedirs(os.path.join(self.root, path))
        with open(os.path.join(self.root, "users/outside/kept"), "w") as file:
            file.write("SECRET")
        base, self.root = self.root, os.path.join(self.root, "users", "%u")
        self.start_service()
        before = snapshot(base, [os.path.join(base, "users/alice")])
        connection = self.connect("alice").open()
        for verb in FILES:
            for request in requests(verb, b"..%2foutside%2fkept"):
                _, data = self.request(connection, request)
                self.assertNotIn(b"SECRET", data)
                self.assertNotIn(base.encode(), data)
        self.assertEqual(before, snapshot(base, [os.path.join(base, "users/alice")]))
        self.finish_by_hand(connection)
        self.root = base


class TestReadOnly(StayingCase):
    """FAULTS 27 and 38: requests that change something are refused, and answered."""

    scenarios = BY_DOOR

    def brz(self, *words):
        return super().brz(*(word for word in words if word != "--allow-writes"))

    def test_warm(self):
        """Also where the repository is in memory."""
        self.make_branch("a")
        self.start_warm()
        self.wait_warm("a")
        before = snapshot(self.root)
        connection = self.connect("alice").open()
        for verb in CHANGES:
            for path in (b"a", b"new", b""):
                for request in requests(verb, path):
                    answer, data = self.request(connection, request)
                    self.assertNotIn(self.root.encode(), data)
                    idle = verb.endswith((b"break_lock", b"autopack", b"reconcile"))
                    self.assertTrue(idle or not answer.good, (request, answer))
        self.assertEqual(before, snapshot(self.root))
        answer, _ = self.request(connection, Request((b"hello",)))
        self.assertEqual([b"ok", b"2"], answer.words)
        self.finish_by_hand(connection)


class TestHooks(StayingCase):
    """FAULT 37: hooks that come with Breezy ran what a branch said."""

    warm = 0

    def test_options_of_a_branch(self):
        outside = os.path.join(self.test_dir, "outside")
        os.mkdir(outside)
        marks = [os.path.join(self.test_dir, name) for name in ("branch", "account")]
        programs = [f"{mark}-program" for mark in marks]
        for mark, program in zip(marks, programs, strict=True):
            with open(program, "w") as file:
                file.write(f"#!/bin/sh\nprintf '%s\\n' \"$@\" >{mark}\n")
            os.chmod(program, 0o700)
        with open(self.config, "w") as file:
            file.write(f"[DEFAULT]\npost_commit_mailer = {programs[1]}\n")
            file.write("post_commit_to = somebody@example.com\n")
            file.write("post_commit_push_pull = True\n")
            file.write("lpserve.sandbox = off\n")  # the kernel would refuse it as well
        tip = self.make_branch("a")
        self.start_service()
        options = {
            "upload_location": urlutils.local_path_to_url(outside),
            "upload_auto": True,
            "post_commit_mailer": programs[0],
            "post_commit_to": "--exec=!id, intruder@example.com",
            "post_commit_sender": "intruder@example.com",
            "smtp_server": "127.0.0.1:9",
        }
        lines = "".join(f"{name} = {value}\n" for name, value in options.items())
        verb, path = b"Branch.set_last_revision_info", b"a"
        connection = self.connect("alice").open()
        put = (b"put", b"a/.bzr/branch/branch.conf", b"")
        answer, _ = self.request(connection, Request(put, lines.encode()))
        self.assertTrue(answer.good, answer)
        answer, _ = self.request(connection, Request((b"Branch.lock_write", path)))
        locks = answer.words[1:]
        changed, _ = self.request(connection, Request((verb, path, *locks, b"3", tip)))
        self.request(connection, Request((b"Branch.unlock", path, *locks)))
        self.assertEqual([], os.listdir(outside))
        self.assertEqual([False, True], [os.path.exists(mark) for mark in marks])
        with open(marks[1]) as file:
            arguments = file.read()
        self.assertIn("\nsomebody@example.com\n", arguments)
        self.assertNotIn("intruder", arguments)
        self.assertEqual([b"ok"], changed.words)
        self.finish_by_hand(connection)
