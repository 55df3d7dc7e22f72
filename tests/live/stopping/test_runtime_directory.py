# SPDX-License-Identifier: GPL-2.0-or-later

"""What happens to the runtime directory while a service runs in it."""

import contextlib
import os
import resource
import shutil
import signal
import stat

from ...harness import (
    DEADLINE,
    DOORS,
    HELLO,
    LiveTestCase,
    limit_descriptors,
    wait_until,
)
from ..spawning.socketcase import BUSY_HOUSE


class DirectoryCase(LiveTestCase):
    def setUp(self):
        super().setUp()
        self.add_plugin("busyhouse", BUSY_HOUSE)

    def path(self, *names):
        return os.path.join(self.runtime, *names)

    def ask_at_socket(self, *words):
        """Ask where no reply FIFO is needed."""
        done = self.run_brz("lp-serve-control", *words)
        return done.stdout.decode()

    def keep_house(self, count=3):
        """Wait until the service has done its housekeeping so many times."""
        for _ in range(count):
            stray = self.path("replies", "client.999999999.0a")
            os.mkfifo(stray)
            wait_until(lambda: not os.path.exists(stray), "it was removed")  # noqa: B023

    def mode(self, *names):
        return stat.S_IMODE(os.stat(self.path(*names)).st_mode)


class TestReplaced(DirectoryCase):
    """FAULT 57: a directory of the service is removed, or replaced."""

    def replace(self, name, kind):
        """Replace a directory; a function that removes what replaces it."""
        path = self.path(name)

        def replaced():
            shutil.rmtree(path)
            try:
                if kind == "file":
                    os.mknod(path)
                elif kind == "link":
                    os.symlink(self.test_dir, path)
                else:
                    os.mkfifo(path)
            except FileExistsError:
                return False  # the service has made the directory again
            return True

        wait_until(replaced, f"there is a {kind} instead of {name}")
        return lambda: os.unlink(path)

    def test_replaced(self):
        self.start_service()
        self.rest()
        for name in ("replies", "connections"):
            for kind in ("file", "link", "fifo"):
                start = len(self.log_text())
                restore = self.replace(name, kind)
                wanted = f"{self.path(name)} is not a directory of ours"
                self.wait_for_log(wanted, start)
                wait_until(
                    lambda: wanted in self.status()["warnings"],  # noqa: B023
                    "the status says so",
                ) if name == "connections" else None
                self.check_serves(doors=("socket",))
                restore()
                wait_until(lambda: self.is_well(name), "it was made again")  # noqa: B023
                self.check_serves()
                said = self.log_text(start)
                self.assertEqual(1, said.count(wanted), said)
                self.assertNotContainsRe(said, "Traceback")
                wait_until(lambda: not self.status()["warnings"], "all is well")
        self.assertEqual(0, self.status()["totals"]["faults"])

    def is_well(self, name):
        with contextlib.suppress(OSError):
            return stat.S_ISDIR(os.lstat(self.path(name)).st_mode)


class TestMode(DirectoryCase):
    """FAULT 63: others can write where only the service may."""

    def test_mode(self):
        self.start_service()
        self.rest()
        os.chmod(self.runtime, 0o777)
        self.wait_for_log("was writable by others")
        wait_until(lambda: self.mode() == 0o700, "its mode is what it was")
        for name in ("replies", "connections"):
            os.chmod(self.path(name), 0o777)
            wait_until(lambda: self.mode(name) == 0o700, "it is as it was")  # noqa: B023
        (warning,) = self.status()["warnings"]
        self.assertContainsRe(warning, f"{self.runtime} was writable by others, until")
        self.assertIn(warning, self.ask_at_socket("status"))
        self.assertEqual(1, self.log_text().count("was writable by others"))
        self.check_serves()

    def test_owner(self):
        """A service stops when its directory belongs to another user."""
        if os.getuid() != 0:
            self.skipTest("only root can give a directory away")
        service = self.start_service()
        os.chown(self.runtime, 1, -1)
        self.wait_for_log(f"{self.runtime} was removed or replaced: stopping")
        service.wait()
        os.chown(self.runtime, 0, -1)


class TestLeft(DirectoryCase):
    def test_killed_twice(self):
        """FAULT 54: service and worker are killed before the client opens the FIFOs."""
        self.configure(connect_timeout=10 * DEADLINE)
        first = self.start_service()
        self.rest()
        dead, alive = self.connect("alice", "fifo"), self.connect("bob", "fifo")
        first.kill()
        first.wait()
        self.start_service()
        self.assertEqual(2, len(os.listdir(self.path("connections"))))
        os.kill(dead.pid, signal.SIGKILL)
        wait_until(lambda: not os.path.exists(dead.paths[0]), "it was removed")
        self.keep_house()
        self.assertTrue(os.path.exists(alive.paths[0]))
        alive.open()
        self.assertEqual(HELLO, alive.hello())
        alive.close()
        told = wait_until(alive.conversation.read_answer, "the worker says how it ends")
        self.assertEqual(["exit", "0"], told)
        alive.conversation.close()
        dead.conversation.close()
        wait_until(lambda: self.paths_left() == DOORS, "nothing is left")


class TestShortage(DirectoryCase):
    def test_no_descriptors(self):
        """FAULT 58: EMFILE in housekeeping is not counted as a fault."""
        service = self.start_service()
        before = self.rest()
        limits = resource.prlimit(service.pid, resource.RLIMIT_NOFILE)
        start = len(self.log_text())

        def starved():
            # The service may just have closed one.
            limit_descriptors(service.pid, 0)
            return "Too many open files: an operation was skipped" in self.log_text(
                start
            )

        wait_until(starved, "it has met the limit")
        self.assertRaises(AssertionError, wait_until, lambda: False, "a while", 2.0)
        resource.prlimit(service.pid, resource.RLIMIT_NOFILE, limits)
        said = self.log_text(start)
        self.assertEqual(1, said.count("an operation was skipped"), said)
        self.assertNotContainsRe(said, "Traceback")
        self.assertEqual(0, self.status()["totals"]["faults"])
        self.check_serves()
        self.rest(descriptors=before)
