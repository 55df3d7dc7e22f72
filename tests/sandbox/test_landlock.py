# SPDX-License-Identifier: GPL-2.0-or-later

"""The system calls of Landlock, each tried in a child process.

tests/live/sandbox/test_sandbox.py shows what a whole sandbox allows and denies.
"""

import contextlib
import errno
import os

from breezy.tests import TestCaseInTempDir

from ...lpserve import system
from ...lpserve.sandbox import landlock
from ...lpserve.sandbox.landlock import WRITE, Access, Ruleset
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

    def restricted(self, run, abi):
        """What *run* returns where it may write in ``inside`` only.

        :param abi: the version of the kernel's interface to be used.
        """
        if not kernel():
            error = self.assertRaises(OSError, landlock.version)
            self.assertIn(
                error.errno, (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM), error
            )
            return None

        def restrict_and_run():
            ruleset = Ruleset(abi, WRITE)
            ruleset.allow("inside", WRITE)
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
        """After 16 restrictions there is an error, and the process goes on."""

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
