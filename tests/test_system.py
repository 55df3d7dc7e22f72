# SPDX-License-Identifier: GPL-2.0-or-later

"""Forks, daemons and messages to systemd."""

import errno
import os
import signal
import sys

from breezy.tests import TestCase, TestCaseInTempDir

from ..lpserve import system
from ..lpserve.errors import LpserveError, UnsupportedPlatform
from .forked import in_child
from .harness import DEADLINE, read_line, wait_until


class TestFork(TestCase):
    """`system.fork`: a child never comes back."""

    def status(self, run):
        """How a forked child ends; the fork is in a child too, which it might leave."""

        def fork_and_wait():
            reader, writer = os.pipe()
            ours = os.getpid()
            # The traceback is for the log.
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115
            os.dup2(sys.stderr.fileno(), 2)
            try:
                pid = system.fork(run)
            finally:
                # Each process that leaves the call writes one byte.
                os.write(writer, b"x")
                if os.getpid() != ours:
                    os._exit(99)
            _, status = os.waitpid(pid, 0)
            os.close(writer)
            return [os.waitstatus_to_exitcode(status), len(os.read(reader, 10))]

        status, came_back = in_child(fork_and_wait)
        self.assertEqual(1, came_back)
        return status

    def test_status(self):
        """FAULT 1: a result that is no status is an error."""
        for result, status in ((None, 0), (0, 0), (75, 75), (True, 1)):
            self.assertEqual(status, self.status(lambda result=result: result))
        for result in ("text", 1 << 70, [1]):
            self.assertNotEqual(0, self.status(lambda result=result: result))

    def test_exceptions(self):
        """FAULT 1: whatever is raised, it is not raised in the parent's frames."""
        for kind in (ValueError, SystemExit, KeyboardInterrupt, BaseException):

            def fail(kind=kind):
                raise kind("on purpose")

            self.assertEqual(70, self.status(fail), kind)

    def test_thread_that_python_does_not_know(self):
        """FAULT 25: the kernel is asked, not Python."""

        def fork():
            import _thread

            _thread.start_new_thread(signal.pause, ())
            wait_until(lambda: system.count_threads() == 2, "the thread is there")
            try:
                system.fork(lambda: 0)
            except LpserveError as error:
                return str(error)

        self.assertContainsRe(in_child(fork), "^2 threads are running")


class TestPlatform(TestCase):
    """`system.check_platform`: in one line what is missing."""

    def assertMissing(self, what):
        error = self.assertRaises(UnsupportedPlatform, system.check_platform)
        self.assertEqual(f"the fork service needs {what}", str(error))

    def test_missing(self):
        system.check_platform()

        def refused(pid):
            raise OSError(errno.ENOSYS, "not implemented")

        self.overrideAttr(os, "pidfd_open", refused)
        self.assertMissing("Linux 5.4 or newer")
        self.overrideAttr(sys, "platform", "darwin")
        self.assertMissing("Linux; 'brz lp-serve --inet' works everywhere")


class TestBound(TestCase):
    """`system.fork`: a child that does not outlive its parent."""

    def status(self, late):
        """How such a child ends, and what it wrote that its parent did not read.

        :param late: it runs only when its parent has ended.
        """

        def adopt():
            system.become_subreaper()
            reader, writer = os.pipe()
            ours = os.getpid()

            def fork(original=os.fork):
                pid = original()
                if pid == 0 and late:
                    wait_until(lambda: os.getppid() == ours, "the parent has ended")
                return pid

            def middle():
                os.fork = fork
                pid = system.fork(be_bound, bound=True)
                if not late:
                    read_line(reader)
                os.write(writer, b"%d\n" % pid)

            def be_bound():
                os.write(writer, b"ran\n")
                signal.alarm(int(DEADLINE))
                signal.pause()

            os.waitpid(system.fork(middle), 0)
            orphan = int(read_line(reader))
            status = os.waitstatus_to_exitcode(os.waitpid(orphan, 0)[1])
            os.close(writer)
            return [status, os.read(reader, 10).decode()]

        return in_child(adopt)

    def test_parent_ends(self):
        self.assertEqual([-signal.SIGKILL, ""], self.status(late=False))

    def test_parent_has_ended(self):
        """Before the kernel was asked to tell."""
        self.assertEqual([70, ""], self.status(late=True))


class TestTitle(TestCase):
    """`system.set_title`."""

    def test_shown(self):
        def title(text):
            system.set_title(text)
            with open("/proc/self/comm") as comm:
                return comm.read()

        self.assertEqual("lp-serve\n", in_child(lambda: title("lp-serve")))
        self.assertEqual("a" * 15 + "\n", in_child(lambda: title("a" * 40)))


class TestDaemonize(TestCaseInTempDir):
    """`system.daemonize`: what the foreground process does and says.

    tests/blackbox/test_lp_serve.py has the background process.
    """

    def run_foreground(self, background):
        """The foreground's exit status, and what it printed."""

        def foreground():
            system.become_subreaper()
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                try:
                    os.dup2(writer, 2)
                    sys.stderr = os.fdopen(2, "w", closefd=False)
                    background(system.daemonize(log))
                finally:
                    os._exit(70)
            os.close(writer)
            _, status = os.waitpid(pid, 0)
            with open(reader, "rb") as file:
                printed = file.read().decode()
            os.wait()  # the background process
            return [os.waitstatus_to_exitcode(status), printed]

        log = os.path.abspath("log")
        return in_child(foreground)

    def test_told(self):
        """FAULT 22: a background process that ends without a report has failed."""
        died = "brz: ERROR: the service died; see its log\n"
        for background, expected in (
            (lambda report: report(""), [0, ""]),
            (lambda report: report("no root"), [3, "brz: ERROR: no root\n"]),
            (lambda report: None, [3, died]),
        ):
            self.assertEqual(expected, self.run_foreground(background))
