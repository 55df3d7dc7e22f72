# SPDX-License-Identifier: GPL-2.0-or-later

"""What the operating system is asked for."""

import errno
import json
import os
import signal
import socket
import sys
import threading
import traceback

from breezy.tests import TestCase, TestCaseInTempDir

from ..lpserve import system
from ..lpserve.errors import LpserveError, UnsupportedPlatform
from .harness import DEADLINE, read_line, wait_until


def in_child(run, deadline=DEADLINE):
    """Call *run* in a forked child; what it returned, as JSON carries it.

    For what could not be undone in the test's own process: limits, adopted
    orphans, reaping whatever there is.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(int(deadline))
            try:
                outcome = {"result": run()}
            except BaseException:
                outcome = {"failure": traceback.format_exc()}
            with open(writer, "w") as file:
                json.dump(outcome, file)
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as file:
        text = file.read()
    os.waitpid(pid, 0)
    if not text:
        raise AssertionError("the child died without a word")
    outcome = json.loads(text)
    if "failure" in outcome:
        raise AssertionError("in a child: " + outcome["failure"])
    return outcome["result"]


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
                # Whoever comes through here writes a letter.
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
        for result, status in ((None, 0), (0, 0), (75, 75), (True, 1)):
            self.assertEqual(status, self.status(lambda result=result: result))

    def test_exceptions(self):
        """FAULT 1: whatever is raised, it is not raised in the parent's frames."""
        for kind in (
            ValueError,
            SystemExit,
            KeyboardInterrupt,
            GeneratorExit,
            BaseException,
            RecursionError,
        ):

            def fail(kind=kind):
                raise kind("on purpose")

            self.assertEqual(70, self.status(fail), kind)

    def test_result_that_is_no_status(self):
        """FAULT 1: not even by a mistake of the caller."""
        for result in ("text", 1 << 70, [1]):
            self.assertNotEqual(0, self.status(lambda result=result: result))

    def test_parent(self):
        """The parent gets the pid of its child."""

        def fork():
            reader, writer = os.pipe()
            pid = system.fork(lambda: os.write(writer, b"%d\n" % os.getpid()) and 0)
            told = int(read_line(reader))
            os.waitpid(pid, 0)
            return pid == told

        self.assertTrue(in_child(fork))

    def test_second_thread(self):
        """FAULT 25: refused, and it says which threads there are."""

        def fork():
            threading.Thread(target=signal.pause, name="busy", daemon=True).start()
            try:
                system.fork(lambda: 0)
            except LpserveError as error:
                return str(error)

        self.assertEqual(
            "2 threads are running (MainThread, busy): cannot fork", in_child(fork)
        )

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

    def test_no_more_processes(self):
        """FAULT 3: an error of the system is told as one."""

        def refused():
            raise BlockingIOError(errno.EAGAIN, "no more processes")

        self.overrideAttr(os, "fork", refused)
        self.assertRaises(BlockingIOError, system.fork, lambda: 0)


class TestDescriptors(TestCase):
    """`system.open_descriptors`."""

    def test_open(self):
        before = system.open_descriptors()
        reader, writer = os.pipe()
        self.assertEqual({reader, writer}, set(system.open_descriptors()) - set(before))
        os.close(reader)
        os.close(writer)
        self.assertEqual(before, system.open_descriptors())


class TestPlatform(TestCase):
    """`system.check_platform`: in one line what is missing."""

    def test_here(self):
        system.check_platform()

    def assertMissing(self, what):
        error = self.assertRaises(UnsupportedPlatform, system.check_platform)
        self.assertContainsRe(str(error), f"^the fork service needs {what}")

    def test_not_linux(self):
        self.overrideAttr(sys, "platform", "darwin")
        self.assertMissing("Linux; 'brz lp-serve --inet' works everywhere$")

    def test_no_fork(self):
        # overrideAttr cannot take an attribute away.
        real = os.fork
        self.addCleanup(setattr, os, "fork", real)
        del os.fork
        self.assertMissing("Linux; 'brz lp-serve --inet' works everywhere$")

    def test_no_pidfd(self):
        def refused(pid):
            raise OSError(errno.ENOSYS, "not implemented")

        self.overrideAttr(os, "pidfd_open", refused)
        self.assertMissing("Linux 5.4 or newer$")


class TestSubreaper(TestCase):
    """`system.become_subreaper`."""

    def test_orphan_becomes_ours(self):
        def adopt():
            system.become_subreaper()
            reader, writer = os.pipe()

            def middle():
                system.fork(be_orphan)
                return 0

            def be_orphan():
                wait_until(lambda: os.getppid() == ours, "it was adopted")
                os.write(writer, b"%d\n" % os.getpid())
                return 6

            ours = os.getpid()
            os.waitpid(system.fork(middle), 0)
            orphan = int(read_line(reader))
            return os.waitstatus_to_exitcode(os.waitpid(orphan, 0)[1])

        self.assertEqual(6, in_child(adopt))


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


class TestNotify(TestCaseInTempDir):
    """`system.notify`: sd_notify(3)."""

    def listen(self, address):
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(listener.close)
        listener.bind(address)
        listener.settimeout(DEADLINE)
        return listener

    def test_path(self):
        path = os.path.relpath(os.path.join(self.test_dir, "notify"))
        listener = self.listen(path)
        self.overrideEnv("NOTIFY_SOCKET", path)
        system.notify("READY=1", "MAINPID=12")
        self.assertEqual(b"READY=1\nMAINPID=12", listener.recv(100))

    def test_abstract(self):
        name = f"lpserve-test-{os.getpid()}"
        listener = self.listen("\0" + name)
        self.overrideEnv("NOTIFY_SOCKET", "@" + name)
        system.notify("STOPPING=1")
        self.assertEqual(b"STOPPING=1", listener.recv(100))

    def test_not_asked(self):
        self.overrideEnv("NOTIFY_SOCKET", None)
        system.notify("READY=1")

    def test_nobody_listens(self):
        """That is systemd's affair; no descriptor is left open."""
        before = system.open_descriptors()
        for address in ("missing", "x" * 300):
            self.overrideEnv("NOTIFY_SOCKET", address)
            system.notify("READY=1")
        self.assertEqual(before, system.open_descriptors())


class TestDaemonize(TestCaseInTempDir):
    """`system.daemonize`: what the foreground process does and says."""

    def run_foreground(self, background):
        """The foreground's exit status, what it printed, and where the rest is."""

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
            with_signal = os.waitstatus_to_exitcode(status)
            os.wait()  # the background process
            return [with_signal, printed]

        log = os.path.abspath("log")
        return in_child(foreground)

    def test_ready(self):
        """It is a session leader's child with nothing of the terminal's."""

        def background(report):
            found = system.open_descriptors()
            facts = (
                os.getcwd(),
                os.getsid(0) != os.getpid(),
                os.readlink("/proc/self/fd/0"),
                os.readlink("/proc/self/fd/1"),
                # The way to report is the only other one.
                len(found),
            )
            os.write(2, f"{facts}\n".encode())
            report("")
            os._exit(0)

        self.assertEqual([0, ""], self.run_foreground(background))
        self.assertFileEqual("('/', True, '/dev/null', '/dev/null', 4)\n", "log")

    def test_failed(self):
        def background(report):
            report("no directory to serve")
            os._exit(1)

        self.assertEqual(
            [3, "brz: ERROR: no directory to serve\n"], self.run_foreground(background)
        )

    def test_died(self):
        """FAULT 22: silence is not success."""
        found = self.run_foreground(lambda report: os._exit(1))
        self.assertEqual([3, "brz: ERROR: the service died; see its log\n"], found)

    def test_no_log(self):
        """Nothing is forked then."""
        self.assertRaises(FileNotFoundError, system.daemonize, "no/such/log")
