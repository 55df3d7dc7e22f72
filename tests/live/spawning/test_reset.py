# SPDX-License-Identifier: GPL-2.0-or-later

"""A worker is a fresh process to everyone it talks to.

A plug-in, ``probe.py``, soils the zygote and tells what a worker is like. The
measure is a real ``brz lp-serve --inet USER``, started as sshd would.
"""

import copy
import json
import os
import resource
import subprocess

from ....lpserve.zygote import reset
from ...harness import DEADLINE, LiveTestCase, read_line

STEPS = (
    reset.IN_ZYGOTE,
    reset.AT_FORK,
    reset.AFTER_PRACTICE,
    reset.AT_CONNECTION,
)

#: For each reset what is wrong without it: keys of `probe.state`; without
#: `reset_configuration` only in a worker that was forked before breezy.conf changed.
WITHOUT = {
    "reset_signals": ["caught", "ignored", "signals", "wakeup"],
    "reset_mask": ["blocked"],
    "reset_interrupt": ["caught", "signals"],
    "reset_descriptors": ["descriptors"],
    "reset_process_group": ["group", "session"],
    "reset_limits": ["limits", "umask"],
    "reset_file_ids": ["file ids"],
    "reset_configuration": [],
    "reset_rules": ["rules"],
    "reset_atomic_files": ["atomic pid"],
    "reset_caches": [
        "concurrency",
        "deprecation",
        "terminal",
        "translations",
        "user encoding",
    ],
    "reset_working_directory": ["cwd"],
    "reset_streams": ["streams", "ui"],
    "reset_environment": ["environ", "locale", "timezone", "user encoding"],
    "reset_locale": ["locale", "timezone", "user encoding"],
    "reset_log": ["descriptors", "log"],
    "reset_start_time": ["log time"],
    "reset_title": ["title"],
}

#: What requests say, and what the service's own environment says.
ASKED = {
    "LC_ALL": "C",
    "TZ": "XYZ-9",
    "SSH_CLIENT": "192.0.2.1 1234 22",
}
SERVICE = {
    "BRZ_EMAIL": "service@example.com",
    "SSH_CLIENT": "192.0.2.99 1 22",
    "SSH_CONNECTION": "192.0.2.99 1 192.0.2.100 22",
    "SSH_ORIGINAL_COMMAND": "sh",
    "INVOCATION_ID": "of-a-unit",
    "NOTIFY_SOCKET": "/nonexistent/notify",
}


class ProbeCase(LiveTestCase):
    """A test with the plug-in ``probe``."""

    rehearses = True

    def setUp(self):
        super().setUp()
        self.probe_home = os.path.join(self.test_dir, "probe")
        os.mkdir(self.probe_home)
        here = os.path.dirname(os.path.abspath(__file__))
        self.plugins["probe"] = os.path.join(here, "probe.py")
        self.rules = os.path.join(self.home, "breezy", "rules")
        self.log = os.path.join(self.home, "breezy", "brz.log")
        self.touch("since")
        self.take_out("")

    @property
    def env(self):
        return {**super().env, "PROBE_HOME": self.probe_home}

    def touch(self, name, text=""):
        """Write a file that the plug-in looks at."""
        with open(os.path.join(self.probe_home, name), "w") as file:
            file.write(text)

    def take_out(self, name):
        """Have the workers forked from now on leave out a reset."""
        self.touch("without", name)

    def notes(self):
        """What the plug-in has noted."""
        with open(os.path.join(self.probe_home, "notes")) as file:
            return file.read().splitlines()

    def ask_probe(self, connection, name):
        """Make one of the plug-in's requests."""
        os.write(connection.stdin, b"probe." + name + b"\n")
        kind, _, text = read_line(connection.stdout).partition(b"\x01")
        self.assertEqual(b"ok", kind, text.decode())
        return text.rstrip(b"\n").decode()

    def ask_once(self, name, user="alice", door=None, **env):
        """One of the plug-in's requests over a connection of its own."""
        connection = self.connect(user, door, **env).open()
        answer = self.ask_probe(connection, name)
        connection.close()
        self.assertEqual(["exit", "0"], connection.end())
        return answer


def as_started():
    """Start the service, or the fresh process, with another umask and limit."""
    os.umask(0o027)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (700, hard))


class TestState(ProbeCase):
    maxDiff = None

    def setUp(self):
        super().setUp()
        self.options = ""
        self.change("old")

    def change(self, text):
        """Change what the user has configured."""
        with open(self.config, "w") as file:
            file.write(f"[DEFAULT]\nprobe = {text}\ndebug_flags = {text}\n")
            file.write(self.options)
        with open(self.rules, "w") as file:
            file.write(f"[name *.probe]\nprobe = {text}\n")

    def start(self, *options):
        self.start_service(*options, popen={"preexec_fn": as_started}, **SERVICE)

    def fresh(self):
        """The state of a process that sshd would start."""
        self.touch("since")
        words = ["--inet", "alice", "--directory", self.root, "--allow-writes"]
        process = subprocess.Popen(
            self.brz("lp-serve", *words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**self.env, **ASKED},
            cwd=self.home,
            start_new_session=True,
            preexec_fn=as_started,
        )
        answer, errors = process.communicate(b"probe.state\n", DEADLINE)
        self.assertEqual((b"", 0), (errors, process.returncode))
        return self.worker_like(json.loads(answer.partition(b"\x01")[2]))

    def worker_like(self, state):
        """*state* with the few things in which a worker is meant to differ."""
        self.add_socket(state)
        # So that ps(1) tells them apart.
        state["title"] = "lp:alice"
        # Breezy's own, before it begins to serve, would write to stderr.
        state["ui"][0] = "SilentUIFactory"
        return state

    @staticmethod
    def add_socket(state):
        """Add a worker's channel to the service, which its children do not inherit."""
        state["descriptors"].append(["other", "socket", True, False, True])
        state["descriptors"].sort()

    def worker(self, door="fifo"):
        """The state of a worker."""
        self.touch("since")
        return json.loads(self.ask_once(b"state", door=door, **ASKED))

    def assertSame(self, expected, found):
        self.assertEqual(sorted(expected), sorted(found))
        self.assertEqual(
            {}, {k: (expected[k], found[k]) for k in differing(expected, found)}
        )

    def test_like_a_fresh_process(self):
        self.start()
        self.rest()
        self.change("new")
        expected = self.fresh()
        self.assertEqual(
            ["new", ["new"]], [expected["config"], expected["debug flags"]]
        )
        by_socket = copy.deepcopy(expected)
        self.add_socket(by_socket)  # its connection with the client
        # The first two have been forked before the change, the others were not.
        for _ in range(2):
            self.assertSame(by_socket, self.worker("socket"))
            self.assertSame(expected, self.worker())
        self.rest()
        self.change("newer")
        self.take_out("reset_configuration")
        found = differing(self.fresh(), self.worker())
        self.assertEqual(["config", "debug flags"], found)

    def test_every_reset_is_needed(self):
        """Without a reset exactly what `WITHOUT` says is different."""
        names = [step.__name__ for steps in STEPS for step in steps]
        self.assertEqual(sorted(WITHOUT), sorted(names))
        # The first of the others finds a zygote that has them all again.
        zygotes = [step.__name__ for step in (*reset.IN_ZYGOTE, reset.AT_FORK[0])]
        self.options = "lpserve.spare_workers = 0\n"
        self.change("old")
        self.start()
        self.change("new")
        expected = self.worker()
        found = {}
        without = dict(WITHOUT)
        for name in names:
            self.take_out(name)
            if name in zygotes:
                self.assertEqual(["ok"], self.ask("reload"))
            found[name] = differing(expected, self.worker())
        # From Python 3.12 asyncio, where something loads it, does this as well.
        for each in found, without:
            each["reset_signals"] = [
                key for key in each["reset_signals"] if key != "wakeup"
            ]
        self.assertEqual(without, found)


def differing(expected, found):
    """The keys of which the values differ."""
    return sorted(key for key in expected if expected[key] != found.get(key))
