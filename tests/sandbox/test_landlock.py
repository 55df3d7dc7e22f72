# SPDX-License-Identifier: GPL-2.0-or-later

"""The system calls of Landlock, in processes that end with them."""

import contextlib
import errno
import os
import signal
import socket

from breezy.tests import TestCaseInTempDir

from ...lpserve import system
from ...lpserve.sandbox import landlock
from ...lpserve.sandbox.landlock import READ, WRITE, Access, Ruleset, Scope
from ..forked import attempt, in_child

#: What a process that is denied something is told.
DENIED = "PermissionError"


def kernel():
    """The version of the kernel's interface; 0 if it has none."""
    with contextlib.suppress(OSError):
        return landlock.version()
    return 0


def write(path, flags=os.O_WRONLY | os.O_CREAT):
    """Open a file for writing, and close it."""
    os.close(os.open(path, flags, 0o600))


class LandlockTestCase(TestCaseInTempDir):
    """With directories ``inside/a``, ``inside/b`` and ``outside``, and files in them.

    Where the kernel has no Landlock, `restricted` shows that it says so.
    """

    def setUp(self):
        super().setUp()
        self.build_tree(
            ["inside/", "inside/a/", "inside/b/", "inside/a/file", "outside/"]
        )
        self.build_tree(["outside/file", "outside/empty/"])

    def restricted(self, run, handled=WRITE, abi=None, scoped=0):
        """What *run* returns where *handled* rights hold in ``inside`` only."""
        if not kernel():
            error = self.assertRaises(OSError, landlock.version)
            self.assertIn(
                error.errno, (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM), error
            )
            return None

        def restrict_and_run():
            ruleset = Ruleset(abi or landlock.version(), handled, scoped)
            ruleset.allow("inside", handled)
            landlock.forgo_privileges()
            ruleset.restrict()
            return run()

        return in_child(restrict_and_run)

    def assertDone(self, expected, *args, **keywords):
        """`restricted` returns *expected*, if there is Landlock."""
        found = self.restricted(*args, **keywords)
        if kernel():
            self.assertEqual(expected, found)


class TestRuleset(LandlockTestCase):
    def test_writing(self):
        """Nothing is made, changed or removed where it is not allowed."""
        attempts = [
            (write, "new"),
            (write, "file"),
            (write, "file", os.O_WRONLY | os.O_APPEND),
            (os.unlink, "file"),
            (os.rmdir, "empty"),
            (os.mkdir, "made"),
            (os.mkfifo, "fifo"),
            (os.symlink, "x", "link"),
            (os.rename, "file", "renamed"),
        ]
        if kernel() >= 3:
            attempts.append((os.truncate, "file", 1))
            attempts.append((write, "file", os.O_RDONLY | os.O_TRUNC))

        def run():
            os.chdir("outside")
            return [attempt(*each) for each in attempts]

        before = sorted(os.listdir("outside"))
        self.assertDone([DENIED] * len(attempts), run)
        self.assertEqual(before, sorted(os.listdir("outside")))
        self.assertFileEqual(b"contents of outside/file\n", "outside/file")

    def test_writing_inside(self):
        """What is allowed goes on; between directories there is rename and link."""

        def run():
            os.rename("inside/a/file", "inside/b/file")
            os.link("inside/b/file", "inside/a/linked")
            os.truncate("inside/b/file", 1)
            os.mkdir("inside/c")
            return [attempt(write, "inside/c/new"), attempt(os.rmdir, "inside/a")]

        self.assertDone(["done", "OSError"], run)

    def test_over_the_border(self):
        """Neither rename nor link, in or out."""
        pairs = [
            ("inside/a/file", "outside/new"),
            ("outside/file", "inside/new"),
        ]

        def run():
            return [
                attempt(function, *pair)
                for function in (os.rename, os.link)
                for pair in pairs
            ]

        found = self.restricted(run)
        if kernel():
            self.assertNotIn("done", found)
        self.assertFalse(os.path.exists("outside/new"))
        self.assertFalse(os.path.exists("inside/new"))

    def test_reading(self):
        def run():
            return [
                attempt(os.listdir, "outside"),
                attempt(os.open, "outside/file", os.O_RDONLY),
                attempt(os.listdir, "inside"),
                attempt(os.open, "inside/a/file", os.O_RDONLY),
                attempt(os.execv, "/bin/true", ["true"]),
            ]

        expected = [DENIED, DENIED, "done", "done", DENIED]
        self.assertDone(expected, run, handled=WRITE | READ)

    def test_file(self):
        """A file can be allowed by itself."""

        def run():
            ruleset = Ruleset(landlock.version(), WRITE)
            ruleset.allow("outside/file", WRITE)
            landlock.forgo_privileges()
            ruleset.restrict()
            append = os.O_WRONLY | os.O_APPEND
            found = [attempt(write, "outside/file", append)]
            found.append(attempt(os.unlink, "outside/file"))
            return [*found, attempt(write, "outside/other")]

        if kernel():
            self.assertEqual(["done", DENIED, DENIED], in_child(run))

    def test_before_rename(self):
        """Linux before 5.19: no rename between directories, whatever is allowed."""

        def run():
            return [
                attempt(os.rename, "inside/a/file", "inside/b/file"),
                attempt(os.rename, "inside/a/file", "inside/a/other"),
            ]

        self.assertDone(["OSError", "done"], run, abi=1)

    def test_before_truncate(self):
        """Linux before 6.2: a file can be truncated wherever it is."""
        self.assertDone("done", lambda: attempt(os.truncate, "outside/file", 1), abi=2)

    def test_signals(self):
        """From Linux 6.12 they, and abstract sockets, stay inside."""
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        address = f"\0lpserve-{os.getpid()}"
        listener.bind(address)
        listener.listen()

        def run():
            with socket.socket(socket.AF_UNIX) as client:
                return [
                    attempt(os.kill, os.getppid(), 0),
                    attempt(os.kill, os.getpid(), signal.SIGCONT),
                    attempt(client.connect, address),
                ]

        scoped = Scope.SIGNAL | Scope.ABSTRACT_UNIX_SOCKET
        expected = [DENIED, "done", DENIED] if kernel() >= 6 else ["done"] * 3
        self.assertDone(expected, run, scoped=scoped)
        self.assertDone(["done"] * 3, run, scoped=scoped, abi=5)

    def test_privileges(self):
        """A program gets no more by being setuid; nor do those it starts."""

        def run():
            landlock.forgo_privileges()
            with open("/proc/self/status") as file:
                [line] = [each for each in file if each.startswith("NoNewPrivs")]
            return line.split()

        self.assertEqual(["NoNewPrivs:", "1"], in_child(run))

    def test_descriptors(self):
        """None is left open, nor inherited meanwhile."""

        def run():
            before = system.open_descriptors()
            ruleset = Ruleset(landlock.version(), WRITE)
            inherited = os.get_inheritable(ruleset.descriptor)
            ruleset.allow("inside", WRITE)
            with contextlib.suppress(FileNotFoundError):
                ruleset.allow("nothing", WRITE)
            landlock.forgo_privileges()
            ruleset.restrict()
            ruleset.close()
            return [inherited, system.open_descriptors() == before]

        if kernel():
            self.assertEqual([False, True], in_child(run))

    def test_too_many(self):
        """Sixteen times; then there is an error, and all goes on."""

        def run():
            landlock.forgo_privileges()
            found = []
            for _ in range(17):
                ruleset = Ruleset(landlock.version(), Access.MAKE_CHAR)
                try:
                    ruleset.restrict()
                except OSError as error:
                    found.append(error.errno)
            return [found[-1], attempt(write, "outside/new")]

        if kernel():
            self.assertEqual([errno.E2BIG, "done"], in_child(run))
