# SPDX-License-Identifier: GPL-2.0-or-later

"""`Children`, with real processes: each is watched, reaped and reported once."""

import os
import select
import signal

from ...lpserve import system
from ...lpserve.service.children import Children, ExitStatus
from ...lpserve.service.loop import Loop
from ..harness import read_line, wait_until
from ..test_system import in_child
from .test_loop import LoopTestCase, run_loop_until

WITHOUT_WAITING = os.WEXITED | os.WNOHANG | os.WNOWAIT


def start(run):
    """Fork a child that runs *run* and exits with what it returns."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(run() or 0)
        finally:
            os._exit(70)
    return pid


def sleep():
    signal.pause()


def kill_self():
    os.kill(os.getpid(), signal.SIGKILL)


class ChildrenTestCase(LoopTestCase):
    """A table of children; how they ended is kept in `ends`, by pid."""

    def setUp(self):
        super().setUp()
        self.reaped = []
        self.ends = {}
        self.children = Children(self.loop, lambda: self.reaped.append(True))
        self.addCleanup(self.end_children)

    def end_children(self):
        """Leave none behind where a test failed."""
        for child in list(self.children._table.values()):
            child.signal(signal.SIGKILL)
        self.wait_ends()

    def add(self, run, leader=False):
        pid = start(run)
        return self.children.add(pid, lambda end: self.note(pid, end), leader)

    def note(self, pid, end):
        self.assertNotIn(pid, self.ends)
        self.ends[pid] = end

    def wait_ends(self):
        self.run_until(lambda: not len(self.children), "all children have ended")


class TestEnds(ChildrenTestCase):
    """How a child ended."""

    def test_exit(self):
        before = system.open_descriptors()
        statuses = (0, 1, 75, 255)
        pids = [self.add(lambda status=status: status).pid for status in statuses]
        self.assertEqual(4, len(self.children))
        self.wait_ends()
        for pid, status in zip(pids, statuses, strict=True):
            self.assertEqual(ExitStatus("exit", status), self.ends[pid])
            # FAULT 18: it is no zombie.
            self.assertRaises(ChildProcessError, os.waitpid, pid, 0)
        self.assertEqual(4, len(self.reaped))
        self.assertEqual(before, system.open_descriptors())

    def test_signal(self):
        """A signal that dumps core is reported like another one."""

        def abort():
            import resource

            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.abort()

        for run, number in ((kill_self, signal.SIGKILL), (abort, signal.SIGABRT)):
            child = self.add(run)
            self.wait_ends()
            self.assertEqual(ExitStatus("signal", number), self.ends[child.pid])

    def test_stopped_is_not_ended(self):
        child = self.add(sleep)
        child.signal(signal.SIGSTOP)
        os.waitid(os.P_PIDFD, child.pidfd, os.WSTOPPED | os.WNOWAIT)
        self.loop.call_later(0.02, self.loop.stop)
        self.loop.run()
        self.assertEqual(1, len(self.children))
        child.signal(signal.SIGCONT)
        child.signal(signal.SIGTERM)
        self.wait_ends()
        self.assertEqual(ExitStatus("signal", signal.SIGTERM), self.ends[child.pid])

    def test_failing_callback(self):
        """Other callbacks, and that of the table, are called all the same."""
        pid = start(lambda: 0)
        self.children.add(pid, lambda end: 1 / 0)
        self.add(lambda: 0)
        self.wait_ends()
        self.assertEqual(2, len(self.reaped))
        self.assertIsInstance(self.failures.pop(), ZeroDivisionError)

    def test_no_such_child(self):
        """Nothing is kept of a pid that cannot be watched."""
        pid = start(lambda: 0)
        os.waitpid(pid, 0)
        self.assertRaises(ProcessLookupError, self.children.add, pid, self.fail)
        self.assertEqual(0, len(self.children))

    def test_str(self):
        self.assertEqual("exit 3", str(ExitStatus("exit", 3)))
        self.assertEqual("signal 9", str(ExitStatus("signal", 9)))
        self.assertTrue(ExitStatus("exit", 0).clean)
        self.assertFalse(ExitStatus("exit", 1).clean)
        self.assertFalse(ExitStatus("signal", 0).clean)

    def test_reaped_by_the_kernel(self):
        """FAULT 18: with SIGCHLD ignored the end of a child is reported."""

        def ignoring():
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            failures, ends = [], []
            loop = Loop(failures.append)
            children = Children(loop, lambda: None)
            reader, writer = os.pipe()

            def end_when_watched():
                os.close(writer)
                os.read(reader, 1)

            children.add(start(end_when_watched), ends.append)
            os.close(writer)
            run_loop_until(loop, lambda: ends or failures, "something is told", 5)
            return [len(ends), len(children), [str(each) for each in failures]]

        self.assertEqual([1, 0, []], in_child(ignoring))


class TestSignals(ChildrenTestCase):
    """Which processes get a signal."""

    def start_family(self, last_words):
        """A group leader with a child; the leader, and a pipe that the child holds."""
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)

        def lead():
            os.setsid()
            start(hold)
            os.close(writer)
            last_words()

        def hold():
            os.write(writer, b"started\n")
            sleep()

        child = self.add(lead, leader=True)
        os.close(writer)
        self.assertEqual(b"started\n", read_line(reader))
        return child, reader

    def assertEnded(self, reader):
        """The last holder of the pipe has ended."""
        self.assertEqual(b"", read_line(reader))

    def test_group(self):
        """FAULT 19: the processes that a worker started get its signals."""
        child, reader = self.start_family(sleep)
        child.signal(signal.SIGTERM)
        self.assertEnded(reader)
        self.wait_ends()
        self.assertEqual(ExitStatus("signal", signal.SIGTERM), self.ends[child.pid])

    def test_exited_worker(self):
        """A background process of a worker that exited goes on."""
        child, reader = self.start_family(lambda: None)
        self.wait_ends()
        self.assertEqual(ExitStatus("exit", 0), self.ends[child.pid])
        self.assertEqual([], select.select([reader], [], [], 0)[0])
        os.killpg(child.pid, signal.SIGKILL)
        self.assertEnded(reader)

    def test_not_a_leader_yet(self):
        """Before a child has made its process group it gets the signal alone."""
        child = self.add(sleep, leader=True)
        child.signal(signal.SIGTERM)
        self.wait_ends()
        self.assertEqual(ExitStatus("signal", signal.SIGTERM), self.ends[child.pid])

    def test_ended_but_not_reaped(self):
        """A signal to a zombie is no error, and no other process gets it."""
        child = self.add(lambda: 0)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        child.signal(signal.SIGTERM)
        self.wait_ends()
        self.assertEqual(ExitStatus("exit", 0), self.ends[child.pid])

    def test_after_it_was_reaped(self):
        """FAULT 9: a process that has the same descriptor now gets no signal."""
        child = self.add(lambda: 0)
        number = child.pidfd
        self.wait_ends()
        bystander = self.add(sleep)
        self.assertEqual(number, bystander.pidfd)
        child.signal(signal.SIGKILL)
        bystander.signal(signal.SIGTERM)
        self.wait_ends()
        self.assertEqual(ExitStatus("signal", signal.SIGTERM), self.ends[bystander.pid])


class TestStrangers(ChildrenTestCase):
    """`Children.reap_strangers`, in a forked process, which adopts orphans."""

    def test_orphans(self):
        """An adopted orphan is reaped, and a child in the table is not."""

        def adopt():
            signal.set_wakeup_fd(-1)
            system.become_subreaper()
            failures, ends = [], []
            loop = Loop(failures.append)
            children = Children(loop, lambda: None)
            children.reap_strangers()  # without any child
            known = start(sleep)
            children.add(known, ends.append)
            children.reap_strangers()  # with none that has ended
            reader, writer = os.pipe()

            def middle():
                orphan = start(lambda: 5)
                os.write(writer, b"%d\n" % orphan)

            os.waitpid(start(middle), 0)
            orphan = int(read_line(reader))
            os.waitid(os.P_PID, orphan, os.WEXITED | os.WNOWAIT)
            children.reap_strangers()
            gone = not os.path.exists(f"/proc/{orphan}")
            os.kill(known, signal.SIGTERM)
            os.waitid(os.P_PID, known, os.WEXITED | os.WNOWAIT)
            children.reap_strangers()  # this one is the loop's to reap
            run_loop_until(loop, lambda: ends, "the known one was told of")
            return [gone, str(ends[0]), len(children), len(failures)]

        self.assertEqual([True, "signal 15", 0, 0], in_child(adopt))


class TestHalfForked(ChildrenTestCase):
    """A process that a zygote was forking when it ended."""

    def zygote(self, run):
        """A zygote that has forked *run*, which is stuck; the pids of both."""
        reader, writer = os.pipe()

        def be_zygote():
            os.setsid()
            os.write(writer, b"%d\n" % system.fork_sibling(run))
            signal.pause()

        zygote = self.add(be_zygote)
        os.close(writer)
        try:
            return zygote, int(read_line(reader))
        finally:
            os.close(reader)

    def end(self, zygote):
        zygote.signal(signal.SIGKILL)
        self.wait_ends()
        self.children.end_group(zygote.pid)

    def assertKilled(self, pid):
        _, status = os.waitpid(pid, 0)
        self.assertEqual(-signal.SIGKILL, os.waitstatus_to_exitcode(status))

    def test_killed(self):
        """FAULT 50: it is killed."""
        zygote, worker = self.zygote(sleep)
        self.end(zygote)
        self.assertKilled(worker)
        self.children.sweep()
        self.assertEqual(set(), self.children._groups)

    def test_known(self):
        """A process in the table is a worker, and is not killed."""
        zygote, worker = self.zygote(sleep)
        known = self.children.add(worker, lambda end: self.note(worker, end))
        zygote.signal(signal.SIGKILL)
        self.run_until(lambda: zygote.pid in self.ends, "it has ended")
        self.children.end_group(zygote.pid)
        self.children.sweep()
        self.assertIsNone(os.waitid(os.P_PID, worker, WITHOUT_WAITING))
        known.signal(signal.SIGTERM)
        self.wait_ends()
        self.assertEqual(ExitStatus("signal", signal.SIGTERM), self.ends[worker])
        self.children.sweep()
        self.assertEqual(set(), self.children._groups)

    def test_another_group(self):
        """What has made itself independent is somebody else's."""
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)

        def leave():
            os.setpgid(0, 0)
            os.write(writer, b"\n")
            sleep()

        zygote, other = self.zygote(leave)
        os.close(writer)
        read_line(reader)
        self.end(zygote)
        self.assertIsNone(os.waitid(os.P_PID, other, WITHOUT_WAITING))
        os.kill(other, signal.SIGTERM)
        _, status = os.waitpid(other, 0)
        self.assertEqual(-signal.SIGTERM, os.waitstatus_to_exitcode(status))

    def test_later(self):
        """A middle process is killed first, and then its child, which is adopted."""
        in_child(self.check_later)

    def check_later(self):
        system.become_subreaper()
        self.overrideAttr(system, "_clone", None)
        reader, writer = os.pipe()

        def be_zygote():
            os.setsid()

            def be_middle():
                os.write(writer, b"%d\n" % system.fork(sleep))
                sleep()

            os.write(writer, b"%d\n" % system.fork(be_middle))
            sleep()

        zygote = self.add(be_zygote)
        pids = sorted(int(read_line(reader)) for _ in range(2))
        self.end(zygote)

        def all_killed():
            self.children.sweep()
            self.children.reap_strangers()
            return not self.children._groups

        wait_until(all_killed, "all are killed")
        for pid in pids:
            self.assertRaises(ProcessLookupError, os.kill, pid, 0)
