# SPDX-License-Identifier: GPL-2.0-or-later

"""What an lp-serve-ssh tells of itself in a file."""

import json
import os
import signal
import subprocess
import sys

from breezy.tests import TestCaseInTempDir

from ..lpserve import sshstate
from ..lpserve.sshstate import SshState, read_states, remove_state, write_state


class TestState(TestCaseInTempDir):
    def setUp(self):
        super().setUp()
        os.mkdir("run", 0o700)
        self.path = f"run/ssh-{os.getpid()}.json"

    def write(self, **changes):
        """Write what is no state, but a file of this process."""
        write_state("run", SshState("0.0.0.0:22", 1.0))
        with open(self.path) as file:
            content = {**json.load(file), **changes}
        with open(self.path, "w") as file:
            json.dump(content, file)

    def test_life(self):
        told = SshState("[::]:22", 1.5, True, sessions=3, logins={"accepted": 2})
        write_state("run", told)
        [read] = read_states("run")
        self.assertEqual(
            (told.listen, told.started, True, 3, 2, 0, True),
            (read.listen, read.started, read.stopping, read.sessions)
            + (read.logins["accepted"], read.logins["authfail"], read.up),
        )
        remove_state("run")
        self.assertEqual([], os.listdir("run"))
        self.assertEqual([], read_states("run"))
        self.assertEqual([], read_states("nowhere"))

    def test_killed(self):
        """A process that was killed is told of no more; the next one removes it."""
        script = (
            "import os, sys, time\n"
            "sys.path.insert(0, sys.argv[1])\n"
            "from lpserve.sshstate import SshState, write_state\n"
            "write_state('run', SshState('0.0.0.0:22', 1.0))\n"
            "print(flush=True)\n"
            "time.sleep(1000)\n"
        )
        top = os.path.dirname(os.path.dirname(sshstate.__file__))
        child = subprocess.Popen(
            [sys.executable, "-I", "-c", script, top], stdout=subprocess.PIPE
        )
        self.addCleanup(child.stdout.close)
        child.stdout.readline()
        self.assertEqual(1, len(read_states("run")))
        child.send_signal(signal.SIGKILL)
        child.wait()
        self.assertEqual([], read_states("run"))
        remove_state("run")
        self.assertEqual([], os.listdir("run"))

    def test_another_process(self):
        """Another process may have the pid of one that was killed."""
        self.write(begun=1)
        self.assertEqual([], read_states("run"))

    def test_outdated(self):
        """It hangs, or is stopped."""
        self.write(now=0.0)
        [read] = read_states("run")
        self.assertFalse(read.up)

    def test_odd(self):
        """A worker could write to the file; what it writes does no harm."""
        for changes in (
            {"listen": 'x"} 1\nlpserve_up 0'},
            {"listen": None},
            {"listen": "1" * 65},
            {"sessions": -1},
            {"sessions": 1 << 60},
            {"logins": [1]},
            {"logins": {"accepted": "x"}},
            {"started": "x"},
        ):
            self.write(**changes)
            self.assertEqual([], read_states("run"), changes)
        for text in ("", "[]", "[" * 8000, "{}" + " " * 9000, "\x00"):
            with open(self.path, "w") as file:
                file.write(text)
            self.assertEqual([], read_states("run"), text[:10])
        os.unlink(self.path)
        os.symlink("/etc/hostname", self.path)
        self.assertEqual([], read_states("run"))
        os.unlink(self.path)
        os.mkfifo(self.path)
        self.assertEqual([], read_states("run"))
        self.write(logins={"alice": 1})
        self.assertNotIn("alice", read_states("run")[0].logins)

    def test_not_trusted(self):
        self.write()
        os.chmod("run", 0o777)
        self.assertEqual([], read_states("run"))
