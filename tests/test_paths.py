# SPDX-License-Identifier: GPL-2.0-or-later

"""The runtime directory: made, checked, locked, cleared."""

import contextlib
import errno
import fcntl
import os
import signal
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
from .test_system import in_child


class PathsTestCase(TestCaseInTempDir):
    """A runtime directory that is not made yet."""

    def setUp(self):
        super().setUp()
        self.directory = RuntimeDirectory(os.path.join(self.test_dir, "run"))

    def hold(self, path, kind):
        """Lock *path* in another process; that process."""
        script = (
            "import fcntl, os, sys\n"
            "held = os.open(sys.argv[1], os.O_RDONLY)\n"
            "fcntl.flock(held, int(sys.argv[2]))\n"
            "print(flush=True)\n"
            "sys.stdin.read()\n"
        )
        return self.run_other(script, path, str(int(kind)))

    def run_other(self, script, *words):
        """Start another process; it has written a line when this returns."""
        other = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", script, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.addCleanup(self.end, other)
        self.assertEndsWith(read_line(other.stdout.fileno()).decode(), "\n")
        return other

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

    def test_writable_by_others(self):
        """FAULT 15: refused with the reason, and nothing is made in it."""
        os.mkdir("run")
        for mode in (0o770, 0o707, 0o777):
            os.chmod("run", mode)
            error = self.assertRaises(RuntimeDirectoryError, self.directory.prepare)
            self.assertContainsRe(str(error), "not safe to use: .*writable by others")
            self.assertEqual([], os.listdir("run"))

    def test_owned_by_another(self):
        """FAULT 15: likewise. Only root can give a directory away."""
        if os.geteuid() == 0:
            os.mkdir("run", 0o700)
            os.chown("run", 65534, 65534)
            foreign = self.directory
        else:
            foreign = RuntimeDirectory("/")
        error = self.assertRaises(RuntimeDirectoryError, foreign.prepare)
        self.assertContainsRe(str(error), "is owned by uid [0-9]+, not by uid")

    def test_not_a_directory(self):
        self.build_tree(["run"])
        error = self.assertRaises(RuntimeDirectoryError, self.directory.prepare)
        self.assertContainsRe(str(error), "File exists.*--runtime-dir")

    def test_cannot_be_made(self):
        self.build_tree(["run"])
        below = RuntimeDirectory(self.directory.path + "/below")
        error = self.assertRaises(RuntimeDirectoryError, below.prepare)
        self.assertContainsRe(str(error), "Not a directory.*--runtime-dir")


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

    def test_already_running(self):
        """FAULT 17: the second is told who the first is; a killed one does no harm."""
        script = (
            "import sys\n"
            "sys.path.insert(0, sys.argv[1])\n"
            "from lpserve.paths import RuntimeDirectory\n"
            "lock = RuntimeDirectory(sys.argv[2]).acquire()\n"
            "print(flush=True)\n"
            "sys.stdin.read()\n"
        )
        plugin = os.path.dirname(os.path.dirname(os.path.abspath(paths.__file__)))
        first = self.run_other(script, plugin, self.directory.path)
        error = self.assertRaises(AlreadyRunning, self.directory.acquire)
        self.assertEqual(str(first.pid), error.pid)
        self.assertContainsRe(str(error), f"already running in .*pid {first.pid}")
        self.assertEqual(f"{first.pid}\n", self.lock_text())
        first.send_signal(signal.SIGKILL)
        first.wait()
        self.acquire()
        self.assertEqual(f"{os.getpid()}\n", self.lock_text())

    def test_holder_without_pid(self):
        open("run/lock", "w").close()
        self.hold("run/lock", fcntl.LOCK_EX)
        error = self.assertRaises(AlreadyRunning, self.directory.acquire)
        self.assertEqual("unknown", error.pid)

    def test_no_descriptor_is_left(self):
        self.acquire()
        before = system.open_descriptors()
        self.assertRaises(AlreadyRunning, self.directory.acquire)
        self.assertEqual(before, system.open_descriptors())

    def test_replaced_while_waiting(self):
        """A lock on a file that has no name any more is worth nothing."""
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

    def test_locked_while_anybody_has_it(self):
        made = self.directory.make_connection()
        theirs = os.dup(made.held)
        made.close()
        self.directory.clear_connections()
        self.assertPathExists(made.path)
        os.close(theirs)
        self.directory.clear_connections()
        self.assertPathDoesNotExist(made.path)

    def test_names(self):
        """Two are never the same, nor that of one which a predecessor left."""
        os.mkdir(f"run/connections/{os.getpid()}-1")
        found = [self.directory.make_connection() for _ in range(3)]
        for each in found:
            self.addCleanup(each.close)
        self.assertEqual(4, len(os.listdir("run/connections")))
        self.assertEqual(3, len({each.path for each in found}))

    def test_out_of_descriptors(self):
        """FAULT 3: with room for 0 or 1 of its two descriptors nothing is left."""

        def fill(room):
            before = system.open_descriptors()
            taken = []
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.open(os.devnull, os.O_RDONLY))
            for _ in range(room):
                os.close(taken.pop())
            try:
                self.directory.make_connection().close()
                failed = 0
            except OSError as error:
                failed = error.errno
            for each in taken:
                os.close(each)
            left = os.listdir("run/connections")
            return [failed, left, system.open_descriptors() == before]

        def limited():
            import resource

            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
            return [fill(room) for room in (0, 1, 2)]

        refused, again, made = in_child(limited)
        self.assertEqual([errno.EMFILE, [], True], refused)
        self.assertEqual([errno.EMFILE, [], True], again)
        self.assertEqual((0, 1, True), (made[0], len(made[1]), made[2]))

    def test_cannot_be_made(self):
        os.rmdir("run/connections")
        self.assertRaises(FileNotFoundError, self.directory.make_connection)

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
