# SPDX-License-Identifier: GPL-2.0-or-later

"""A fork whose child is its parent's parent's: the workers of a zygote."""

import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading

from breezy.tests import TestCase
from breezy.tests.scenarios import load_tests_apply_scenarios

from ..lpserve import system
from ..lpserve.errors import LpserveError
from .forked import in_child
from .harness import read_line, wait_until

load_tests = load_tests_apply_scenarios


class SiblingCase(TestCase):
    """With a process that forks siblings, and its parent.

    :cvar fault: of clone3(2), where that does not work.
    """

    fault = None

    def fork(self, run, before=lambda: None, after=lambda: None):
        """Fork *run* as a sibling; how it ended, and what the one that forks says.

        :param before: called by the one that forks, and *after* when it has.
        """

        def be_parent():
            system.become_subreaper()
            said, says = os.pipe()
            held, holds = os.pipe()

            def be_zygote():
                os.close(holds)
                sys.stderr = open(os.devnull, "w")  # noqa: SIM115
                os.dup2(sys.stderr.fileno(), 2)
                self.forbid()
                ours, opened = os.getpid(), system.open_descriptors()
                before()
                pid, error = 0, None
                try:
                    pid = system.fork_sibling(run)
                except (OSError, LpserveError) as raised:
                    error = [type(raised).__name__, getattr(raised, "errno", None)]
                    error.append(str(raised))
                if os.getpid() != ours:
                    os.write(says, b"came back\n")
                    os._exit(99)
                told = {"error": error, "after": after()}
                told["leaked"] = system.open_descriptors() != opened
                told["pid"] = pid
                os.write(says, json.dumps(told).encode() + b"\n")
                # It is not an orphan: we are here until it has been reaped.
                os.read(held, 1)

            zygote = system.fork(be_zygote)
            os.close(says)
            told = json.loads(read_line(said))
            status = None
            if told["pid"]:
                _, status = os.waitpid(told["pid"], 0)
                status = os.waitstatus_to_exitcode(status)
            os.close(holds)
            os.waitpid(zygote, 0)
            # Nobody came back, and nobody else was left to us.
            told["rest"] = os.read(said, 100).decode()
            try:
                told["stranger"] = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                told["stranger"] = None
            return [status, told]

        status, told = in_child(be_parent)
        self.assertEqual(
            ["", None, False], [told[k] for k in ("rest", "stranger", "leaked")]
        )
        return status, told

    def forbid(self):
        """Have clone3 fail where the scenario says so."""
        if self.fault is not None:

            def refused():
                raise OSError(self.fault, os.strerror(self.fault))

            system._clone = refused


class TestForkSibling(SiblingCase):
    """`system.fork_sibling`: the child is our parent's, with clone3(2) or without."""

    scenarios = [
        ("clone3", {"fault": None}),
        ("no such call", {"fault": errno.ENOSYS}),
        ("not permitted", {"fault": errno.EPERM}),
    ]

    def test_statuses(self):
        for result, status in ((None, 0), (0, 0), (75, 75), (True, 1), ("text", 70)):
            self.assertEqual(status, self.fork(lambda result=result: result)[0])

    def test_exceptions(self):
        """FAULT 1: it never comes back into the frames of who forked it."""
        for kind in (ValueError, SystemExit, KeyboardInterrupt, BaseException):

            def fail(kind=kind):
                raise kind("on purpose")

            self.assertEqual(70, self.fork(fail)[0], kind)

    def test_signals(self):
        """It is ended by a signal that it sends itself, also by its C library."""

        def send(number):
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

        for number in (signal.SIGTERM, signal.SIGABRT):
            status, _ = self.fork(lambda number=number: send(number))
            self.assertEqual(-number, status)

    def test_child(self):
        """A process as any other: whose it is, threads, programs, random numbers."""
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)

        def run():
            wait_until(lambda: os.getppid() == self.parent, "it is our parent's")
            thread = threading.Thread(target=lambda: None)
            thread.start()
            thread.join()
            done = subprocess.run(["echo", "said"], stdout=subprocess.PIPE)
            facts = {
                "pid": os.getpid(),
                "main": threading.current_thread() is threading.main_thread(),
                "native": threading.get_native_id() == os.getpid(),
                "said": done.stdout.decode(),
                "random": random.random(),
            }
            os.write(writer, json.dumps(facts).encode() + b"\n")

        def before():
            self.parent = os.getppid()

        found = []
        for _ in range(2):
            status, told = self.fork(run, before)
            facts = json.loads(read_line(reader))
            self.assertEqual((0, told["pid"]), (status, facts["pid"]))
            self.assertEqual(
                [True, True, "said\n"], [facts[k] for k in ("main", "native", "said")]
            )
            found.append(facts["random"])
        os.close(writer)
        self.assertNotEqual(*found)

    def test_mask(self):
        """What was blocked is blocked from its first moment on."""

        def run():
            return signal.SIGUSR1 in signal.pthread_sigmask(signal.SIG_BLOCK, ())

        def block():
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])

        self.assertEqual(0, self.fork(run)[0])
        self.assertEqual(1, self.fork(run, block)[0])

    def test_second_thread(self):
        """FAULT 25: refused."""

        def start_thread():
            threading.Thread(target=signal.pause, name="busy", daemon=True).start()

        status, told = self.fork(lambda: 0, start_thread)
        self.assertEqual((None, "LpserveError"), (status, told["error"][0]))
        self.assertContainsRe(told["error"][2], r"^2 threads .*busy\): cannot fork$")

    def test_no_more_processes(self):
        """FAULT 3: told as an error of the system; then it goes on."""

        def limit():
            if os.geteuid() == 0:
                # Whom there are no limits for is somebody else first.
                os.setresuid(54321, 54321, 54321)
            resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))

        status, told = self.fork(lambda: 0, limit)
        self.assertEqual((None, errno.EAGAIN), (status, told["error"][1]))

    def test_asked_once(self):
        """Where clone3 is not to be had it is not tried again."""

        def after():
            return system._clone is None

        _, told = self.fork(lambda: 0, after=after)
        self.assertEqual(self.fault is not None, told["after"])

    def test_other_errors(self):
        """FAULT 3: whatever it is that cannot fork, what it says is told."""
        name = "_clone" if self.fault is None else "fork"
        where = system if self.fault is None else os

        def refused():
            raise OSError(errno.ENOMEM, "no memory")

        def before():
            setattr(where, name, refused)

        status, told = self.fork(lambda: 0, before)
        self.assertEqual((None, errno.ENOMEM), (status, told["error"][1]))


class TestByFlags(SiblingCase):
    """clone(2), where clone3(2) is refused."""

    def test_sibling(self):
        def before():
            system._SYS_CLONE3 = 1 << 20  # there is no such call

        def after():
            return system._clone is system._clone_by_flags

        if system._SYS_CLONE is None:
            return  # on other machines there is the middle process
        status, told = self.fork(lambda: 7, before, after)
        self.assertEqual((7, None, True), (status, told["error"], told["after"]))


class TestMiddleProcess(SiblingCase):
    """What can happen to the middle process alone."""

    fault = errno.ENOSYS

    def test_it_fails(self):
        """FAULT 3: it cannot fork, or is killed."""

        def refused():
            raise BlockingIOError(errno.EAGAIN, "no more processes")

        for action, text in (
            (refused, ""),
            (lambda: os.kill(os.getpid(), signal.SIGKILL), "middle process was killed"),
        ):

            def before(real=os.fork, action=action):
                ours = os.getpid()

                def fork():
                    return real() if os.getpid() == ours else action()

                os.fork = fork

            status, told = self.fork(lambda: 0, before)
            self.assertEqual((None, errno.EAGAIN), (status, told["error"][1]))
            self.assertIn(text, told["error"][2])
