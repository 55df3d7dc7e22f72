# SPDX-License-Identifier: GPL-2.0-or-later

"""A service that cannot start says so, and leaves nothing."""

import contextlib
import fcntl
import os
import subprocess

from ....lpserve.client import conversation
from ...harness import DEADLINE, LiveTestCase, wait_until

#: A plug-in for the service alone: a call of the system fails.
FAILING = """
import errno, os, sys

def fail(path, *args, **keywords):
    if os.path.basename(path) in %r:
        raise OSError(errno.%s, os.strerror(errno.%s), path)
    return original(path, *args, **keywords)

if "--zygote" not in sys.argv:
    original, os.%s = os.%s, fail
"""


class StartingCase(LiveTestCase):
    def start(self, *words, **keywords):
        """Run a service that ends by itself; the completed process."""
        words = ["--fork-server", "--directory", self.root, *words]
        return subprocess.run(
            self.brz("lp-serve", *words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=self.env,
            cwd=self.test_dir,
            timeout=DEADLINE,
            check=False,
            **keywords,
        )

    def assertRefuses(self, *texts, options=(), before=()):
        """It does not start, in the foreground or in the background.

        One line has all of *texts*; *before* is all that is in the directory.
        """
        for words in ((), ("--daemon",)):
            done = self.start(*options, *words)
            self.assertEqual((3, b""), (done.returncode, done.stdout), str(done))
            lines = done.stderr.decode().splitlines()
            self.assertStartsWith(lines[-1], "brz: ERROR: ")
            self.assertNotContainsRe(done.stderr.decode(), "Traceback")
            for text in texts:
                self.assertContainsString(lines[-1], text)
            self.assertFree(before)

    def assertFree(self, before=()):
        """Nobody holds the directory, in which there is nothing but *before*."""
        wait_until(lambda: not self.processes(), "every process has ended")
        with contextlib.suppress(FileNotFoundError):
            with (
                contextlib.suppress(IsADirectoryError),
                open(os.path.join(self.runtime, "lock")) as lock,
            ):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left = set(os.listdir(self.runtime)) - {"connections", "lock", "replies"}
            self.assertEqual(set(before) - {"lock"}, left - {"warm"})


class TestDoors(StartingCase):
    """FAULT 47: doors that cannot be made end the start with an error."""

    def test_in_the_way(self):
        """Something else has the name of a door, or of what is made before it."""
        os.mkdir(self.runtime, 0o700)
        for name, wanted in (
            ("lock", "%s: Is a directory"),
            ("control", "cannot listen: %s: Is a directory"),
            ("socket", "cannot listen: %s: Is a directory"),
            (".new-control", "cannot listen: "),
            (".new-socket", "cannot listen: "),
        ):
            path = os.path.join(self.runtime, name)
            os.mkdir(path)
            self.assertRefuses(wanted.replace("%s", path), before=[name])
            os.rmdir(path)
        for name in ("replies", "connections"):
            path = os.path.join(self.runtime, name)
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(path)
            with open(path, "w"):
                pass
            self.assertRefuses(f"{path} is not a directory of ours; remove")
            os.unlink(path)

    def test_calls_that_fail(self):
        for number, (call, fault, text, names) in enumerate(
            (
                ("mkfifo", "ENOSPC", "No space left on device", [".new-control"]),
                ("mkfifo", "EACCES", "Permission denied", [".new-control"]),
                ("rename", "EIO", "Input/output error", [".new-control"]),
                ("rename", "EDQUOT", "Disk quota exceeded", [".new-socket"]),
                ("chmod", "EPERM", "Operation not permitted", ["socket"]),
            )
        ):
            name = f"failing{number}"
            self.add_plugin(name, FAILING % (names, fault, fault, call, call))
            self.assertRefuses("cannot listen: ", text)
            del self.plugins[name]


class TestPidFile(StartingCase):
    def setUp(self):
        super().setUp()
        self.pid_file = os.path.join(self.test_dir, "pid", "file")
        os.mkdir(os.path.dirname(self.pid_file))

    def read(self):
        with open(self.pid_file) as file:
            return file.read()

    def test_successor(self):
        """FAULT 55: a service does not remove a file that names another one."""
        first = self.start_service("--pid-file", self.pid_file)
        connection = self.connect().open()
        os.rename(self.runtime, self.runtime + ".old")
        second = self.start_service("--pid-file", self.pid_file)
        self.assertEqual(f"{second.pid}\n", self.read())
        connection.close()
        connection.conversation.close()
        self.assertEqual(3, first.wait(DEADLINE))
        self.assertEqual(f"{second.pid}\n", self.read())
        self.assertEqual(0, self.stop_service(second))
        self.assertEqual([], os.listdir(os.path.dirname(self.pid_file)))

    def test_stale(self):
        """What a killed service left is overwritten, and so is what is no pid."""
        for left in ("1\n", "", "rubbish"):
            with open(self.pid_file, "w") as file:
                file.write(left)
            service = self.start_service("--pid-file", self.pid_file)
            self.assertEqual(f"{service.pid}\n", self.read())
            self.stop_service()
            self.assertEqual([], os.listdir(os.path.dirname(self.pid_file)))

    def test_changed(self):
        """The service ends well, whatever became of the file."""
        for happen in (
            lambda: os.unlink(self.pid_file),
            lambda: os.truncate(self.pid_file, 0),
            lambda: (os.unlink(self.pid_file), os.mkdir(self.pid_file)),
        ):
            self.start_service("--pid-file", self.pid_file)
            happen()
            self.assertEqual(0, self.stop_service())

    def test_cannot_be_written(self):
        missing = os.path.join(self.test_dir, "missing", "pid")
        directory = os.path.dirname(self.pid_file)
        for path, why in (
            (missing, "No such file or directory"),
            (directory, "Is a directory"),
            (os.path.join(directory, "x" * 255), "File name too long"),
            ("/proc/pid", "No such file or directory"),
        ):
            self.assertRefuses(
                f"cannot write {path}: {why}", options=["--pid-file", path]
            )
            self.assertEqual([], os.listdir(directory))


class TestDaemon(StartingCase):
    def test_stops_by_itself(self):
        """FAULT 60: a daemon that has to stop logs why; nobody waits for its report."""
        pid_file = os.path.join(self.test_dir, "pid")
        self.configure(log_file=self.log_path)
        done = self.start("--daemon", "--pid-file", pid_file)
        self.assertEqual(0, done.returncode, done.stderr)
        self.addCleanup(self.stop_daemon)
        os.unlink(os.path.join(self.runtime, "control"))
        wait_until(lambda: not os.path.exists(pid_file), "it has ended")
        wait_until(lambda: not self.processes(), "every process has ended")
        self.assertContainsString(self.log_text(), "control was removed or replaced")
        self.assertNotContainsRe(self.log_text(), "Traceback")

    def stop_daemon(self):
        with contextlib.suppress(conversation.NoService):
            self.ask("shutdown", "now")
