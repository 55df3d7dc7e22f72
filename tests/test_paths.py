# SPDX-License-Identifier: GPL-2.0-or-later

"""The runtime directory: made, checked, locked, cleared."""

import errno
import fcntl
import os
import stat
import subprocess
import sys
import time
import types

from breezy.tests import TestCaseInTempDir

from ..lpserve import paths, system
from ..lpserve.errors import AlreadyRunning, RuntimeDirectoryError
from ..lpserve.paths import RuntimeDirectory
from .harness import read_line


class PathsTestCase(TestCaseInTempDir):
    """A runtime directory that is not made yet."""

    def setUp(self):
        super().setUp()
        self.directory = RuntimeDirectory(os.path.join(self.test_dir, "run"))

    def hold(self, path, kind):
        """Lock *path* in another process until the test ends."""
        script = (
            "import fcntl, os, sys\n"
            "held = os.open(sys.argv[1], os.O_RDONLY)\n"
            "fcntl.flock(held, int(sys.argv[2]))\n"
            "print(flush=True)\n"
            "sys.stdin.read()\n"
        )
        other = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", script, path, str(int(kind))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.addCleanup(self.end, other)
        self.assertEqual(b"\n", read_line(other.stdout.fileno()))

    def end(self, other):
        other.stdin.close()
        other.stdout.close()
        other.kill()
        other.wait()


class TestPrepare(PathsTestCase):
    """`RuntimeDirectory.prepare`."""

    def test_made(self):
        """Private, whatever the umask; and it may be there already."""
        self.addCleanup(os.umask, os.umask(0))
        for _ in range(2):
            self.directory.prepare()
            for path in (self.directory.path, "run/replies", "run/connections"):
                found = os.stat(path)
                self.assertEqual(0o700, stat.S_IMODE(found.st_mode), path)
                self.assertEqual(os.geteuid(), found.st_uid)

    def test_refused(self):
        """FAULT 15: the reason is told, and nothing is made in it."""

        def refused(text, path=self.directory.path):
            error = self.assertRaises(
                RuntimeDirectoryError, RuntimeDirectory(path).prepare
            )
            self.assertContainsRe(str(error), text)

        os.mkdir("run", 0o777)
        os.chmod("run", 0o707)
        refused("not safe to use: .*writable by others")
        if os.geteuid() == 0:
            os.chmod("run", 0o700)
            os.chown("run", 65534, 65534)  # only root can give a directory away
            refused("is owned by uid 65534, not by uid 0")
        self.assertEqual([], os.listdir("run"))
        os.rmdir("run")
        self.build_tree(["run"])
        refused("File exists.*--runtime-dir")
        refused("Not a directory.*--runtime-dir", self.directory.path + "/below")


class TestAcquire(PathsTestCase):
    """`RuntimeDirectory.acquire`: one service a directory."""

    def setUp(self):
        super().setUp()
        self.directory.prepare()

    def acquire(self):
        self.addCleanup(os.close, self.directory.acquire())

    def lock_text(self):
        with open(self.directory.lock) as file:
            return file.read()

    def test_pid(self):
        """The file names its holder, also where a longer pid was before."""
        with open(self.directory.lock, "w") as file:
            file.write("1234567890\nand more\n")
        self.acquire()
        self.assertEqual(f"{os.getpid()}\n", self.lock_text())

    def test_holder_without_pid(self):
        open("run/lock", "w").close()
        self.hold("run/lock", fcntl.LOCK_EX)
        before = system.open_descriptors()
        error = self.assertRaises(AlreadyRunning, self.directory.acquire)
        self.assertEqual("unknown", error.pid)
        self.assertEqual(before, system.open_descriptors())

    def test_replaced_while_waiting(self):
        """A file that was replaced meanwhile is not the one to lock."""
        real, moved = fcntl.flock, []

        def flock(descriptor, operation):
            if not moved:
                moved.append(descriptor)
                os.rename("run/lock", "run/old")
            real(descriptor, operation)

        fake = types.SimpleNamespace(**{**vars(fcntl), "flock": flock})
        self.overrideAttr(paths, "fcntl", fake)
        self.acquire()
        self.assertEqual(f"{os.getpid()}\n", self.lock_text())


class TestIsOurs(PathsTestCase):
    def test_another_in_its_place(self):
        """One that a successor made is not the one that was locked."""
        self.directory.prepare()
        lock = self.directory.acquire()
        self.addCleanup(os.close, lock)
        self.assertTrue(self.directory.is_ours)
        os.rename(self.directory.path, self.directory.path + ".away")
        self.assertFalse(self.directory.is_ours)
        os.mkdir(self.directory.path, 0o700)
        self.assertFalse(self.directory.is_ours)


class TestClear(PathsTestCase):
    """What a killed service and killed clients left is removed, nothing else."""

    def setUp(self):
        super().setUp()
        self.directory.prepare()

    def later(self):
        """Let the second of grace be over."""
        clock = types.SimpleNamespace(time=lambda: time.time() + 60)
        self.overrideAttr(paths, "time", clock)

    def dead_pid(self):
        dead = subprocess.Popen(["true"])
        dead.wait()
        return dead.pid

    def test_doors(self):
        """Files, FIFOs and half-made ones; not the lock, nor what is not ours."""
        for name in ("control", ".new-control"):
            os.mkfifo(f"run/{name}")
        self.build_tree(["run/socket", "run/lock", "run/notes"])
        self.directory.clear_leftovers()
        self.assertEqual(
            ["connections", "lock", "notes", "replies"], sorted(os.listdir("run"))
        )

    def test_connections(self):
        """One whose worker is alive holds it locked, and keeps it."""
        for name in ("alive", "dead", "half-made"):
            os.mkdir(f"run/connections/{name}")
        for name in ("alive", "dead"):
            for fifo in paths.connection_fifos(f"run/connections/{name}"):
                os.mkfifo(fifo)
        self.hold("run/connections/alive", fcntl.LOCK_SH)
        before = system.open_descriptors()
        self.directory.clear_leftovers()
        self.assertEqual(["alive"], os.listdir("run/connections"))
        self.assertEqual(3, len(os.listdir("run/connections/alive")))
        self.assertEqual(before, system.open_descriptors())

    def test_rehearsals(self):
        """Of zygotes that are gone; one that runs may be another service's."""
        alive, dead = (
            os.path.basename(paths.rehearsal_stage("run", pid))
            for pid in (os.getpid(), self.dead_pid())
        )
        self.build_tree([f"run/{alive}/", f"run/{dead}/", f"run/{dead}/run"])
        self.directory.clear_rehearsals()
        self.assertEqual(
            sorted([alive, "connections", "replies"]), sorted(os.listdir("run"))
        )
        self.directory.clear_leftovers()
        self.assertEqual(["connections", "replies"], sorted(os.listdir("run")))

    def test_replies(self):
        """Of the stand-alone client's names, those of processes that are gone."""
        names = [
            f"client.{self.dead_pid()}.0a1b2c3d",
            f"client.{os.getpid()}.0a1b2c3d",
            f"client.{self.dead_pid()}",
            "me",
        ]
        for name in names:
            os.mkfifo(f"run/replies/{name}")
        self.directory.clear_replies()
        self.assertEqual(sorted(names), sorted(os.listdir("run/replies")))
        self.later()
        self.directory.clear_leftovers()
        self.assertEqual(sorted(names[1:]), sorted(os.listdir("run/replies")))


class TestConnection(PathsTestCase):
    """`RuntimeDirectory.make_connection`: made whole or not at all."""

    def setUp(self):
        super().setUp()
        self.directory.prepare()

    def test_made(self):
        made = self.directory.make_connection()
        self.addCleanup(made.close)
        self.assertEqual(0o700, stat.S_IMODE(os.stat(made.path).st_mode))
        self.assertEqual(["stderr", "stdin", "stdout"], sorted(os.listdir(made.path)))
        for name, path in zip(("stdin", "stdout", "stderr"), made.fifos, strict=True):
            self.assertEqual(f"{made.path}/{name}", path)
            mode = os.stat(path).st_mode
            self.assertTrue(stat.S_ISFIFO(mode))
            self.assertEqual(0o600, stat.S_IMODE(mode))
        # FAULT 4: it becomes descriptor 0 of the worker.
        self.assertTrue(os.get_blocking(made.stdin))
        # A client may open the other end at once.
        os.close(os.open(made.fifos[0], os.O_WRONLY | os.O_NONBLOCK))

    def test_names(self):
        """Two are never the same, nor that of one which a predecessor left."""
        os.mkdir(f"run/connections/{os.getpid()}-1")
        found = [self.directory.make_connection() for _ in range(3)]
        for each in found:
            self.addCleanup(each.close)
        self.assertEqual(4, len(os.listdir("run/connections")))
        self.assertEqual(3, len({each.path for each in found}))

    def test_cannot_be_made(self):
        """FAULT 3: nothing of it is left."""

        def refused(path, mode):
            raise OSError(errno.EMFILE, "too many open files")

        before = system.open_descriptors()
        self.overrideAttr(os, "mkfifo", refused)
        self.assertRaises(OSError, self.directory.make_connection)
        self.assertEqual([], os.listdir("run/connections"))
        self.assertEqual(before, system.open_descriptors())

    def test_remove(self):
        """Whatever is left of it; and what else is in it stays."""
        made = self.directory.make_connection()
        made.close()
        os.unlink(made.fifos[1])
        paths.remove_connection(made.path)
        self.assertPathDoesNotExist(made.path)
        paths.remove_connection(made.path)
        self.build_tree(["other/", "other/file"])
        paths.remove_connection("other")
        self.assertPathExists("other/file")
