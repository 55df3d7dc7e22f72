# SPDX-License-Identifier: GPL-2.0-or-later

"""Who gets which worker, with real children and a fake zygote."""

import os
import signal
import socket

from ...lpserve import channel, system
from ...lpserve.paths import RuntimeDirectory
from ...lpserve.service import doors
from ...lpserve.service.children import Children
from ...lpserve.service.pool import Connection, Pool
from .test_loop import LoopTestCase


def be_worker(end):
    """Do what USER says: exit with a status, send a message, or wait for a signal."""
    message, _ = channel.receive(end)
    if message is None:
        return 0
    word, _, number = message["user"].partition("-")
    if word == "exit":
        return int(number)
    if word == "left":
        channel.send(end, "left")
        return 3
    if word == "missed":
        for _ in range(2):
            channel.send(end, "imported", names=["b", "a"])
    signal.pause()
    return 0


class Reply(doors.Reply):
    """Keeps the answers; and what was in *directory* when each arrived."""

    path = "/replies/me"

    def __init__(self, directory):
        super().__init__()
        self.directory = directory
        self.answers = []
        self.left = []
        self.closed = False
        self.has_reader = True

    def send(self, line):
        assert not self.closed
        self.answers.append(line.decode().split())
        self.left.append(os.listdir(self.directory))
        return self.has_reader

    def close(self):
        self.closed = True


class PoolTestCase(LoopTestCase):
    """A pool whose zygote forks when `fork` is called."""

    def setUp(self):
        super().setUp()
        self.directory = RuntimeDirectory(os.path.join(self.test_dir, "run"))
        self.directory.prepare()
        self.children = Children(self.loop, lambda: None)
        self.ended = []
        self.logged = []
        self.asked = []
        self.asked_for_spare = []
        self.generation = 1
        self.addCleanup(self.end_children)
        self.pool = Pool(
            self.loop,
            self.children,
            self.directory,
            self.request_fork,
            lambda connection, worker, end: self.ended.append((connection, str(end))),
            self.logged.append,
        )

    def request_fork(self, serials, ends, spare):
        if not self.generation:
            raise OSError("no zygote")
        for serial, end in zip(serials, ends, strict=True):
            self.asked.append((serial, end.dup()))
            self.asked_for_spare.append(spare)
        return self.generation

    def fork(self):
        """Do what was asked for first; the worker's pid."""
        serial, end = self.asked.pop(0)
        pid = os.fork()
        if pid == 0:
            try:
                for descriptor in system.open_descriptors():
                    if descriptor > 2 and descriptor != end.fileno():
                        os.close(descriptor)
                os.setsid()
                os._exit(be_worker(end) or 0)
            finally:
                os._exit(70)
        end.close()
        self.pool.forked(serial, pid)
        return pid

    def end_children(self):
        """End what the test left, and forget what nobody forked."""
        for _, end in self.asked:
            end.close()
        self.pool.zygote_lost(self.generation)
        self.generation = 0
        self.pool.resize(0)
        self.pool.signal_all(signal.SIGKILL)
        self.run_until(lambda: not len(self.children), "every worker has ended")

    def submit(self, user="wait", patience=60.0):
        connection = Connection(user, {}, Reply(self.directory.connections))
        self.pool.submit(connection, patience)
        return connection

    def wait_closed(self, connection):
        self.run_until(lambda: connection.reply.closed, "the last answer")
        return connection.reply.answers

    def counts(self):
        """How many workers are spare, busy and asked for, connections waiting."""
        found = self.pool
        each = (found.spares, found.busy, found.in_flight, found.waiting)
        return tuple(map(len, each))


class TestSpares(PoolTestCase):
    """Workers that wait."""

    def test_kept(self):
        """There are as many as were asked for; one that is taken is replaced."""
        self.pool.resize(2)
        self.assertEqual((0, 0, 2, 0), self.counts())
        pids = [self.fork(), self.fork()]
        self.assertEqual((2, 0, 0, 0), self.counts())
        connection = self.submit()
        self.assertEqual((1, 1, 0, 0), self.counts())
        word, pid, *fifos = connection.reply.answers[0]
        self.assertEqual(("ok", str(pids[0])), (word, pid))
        names = [os.path.basename(path) for path in fifos]
        self.assertEqual(["stdin", "stdout", "stderr"], names)
        self.run_until(lambda: self.asked, "another is asked for")
        self.fork()
        self.assertEqual((2, 1, 0, 0), self.counts())

    def test_last_one_taken(self):
        """When the last one is taken another is asked for at once."""
        self.pool.resize(1)
        self.fork()
        self.assertEqual("ok", self.submit().reply.answers[0][0])
        self.assertEqual((0, 1, 1, 0), self.counts())

    def test_somebody_waits(self):
        """The zygote is told whether a connection waits for the worker."""
        self.submit()
        self.submit()
        self.pool.resize(1)
        self.assertEqual([False, False, True], self.asked_for_spare)

    def test_resized(self):
        """Spare workers that are too many exit."""
        self.pool.resize(3)
        for _ in range(3):
            self.fork()
        self.pool.resize(1)
        self.assertEqual((1, 0, 0, 0), self.counts())
        self.run_until(lambda: len(self.children) == 1, "two have ended")
        self.assertEqual([], self.ended)

    def test_too_many_at_once(self):
        """The zygote is asked for a limited number at a time."""
        self.pool.resize(100)
        self.assertEqual((0, 0, Pool.MAX_IN_FLIGHT, 0), self.counts())
        self.pool.resize(0)

    def test_killed(self):
        """A dead spare worker is replaced, even if it is not reaped yet."""
        self.pool.resize(1)
        first = self.fork()
        os.kill(first, signal.SIGKILL)
        os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
        connection = self.submit()
        self.assertEqual([], connection.reply.answers)
        self.assertEqual([], os.listdir(self.directory.connections))
        second = self.fork()
        self.assertEqual(["ok", str(second)], connection.reply.answers[0][:2])
        third = self.fork()
        os.kill(third, signal.SIGKILL)
        self.run_until(lambda: self.asked, "another is asked for")
        self.assertEqual((0, 1, 1, 0), self.counts())

    def test_of_older_generations(self):
        self.pool.resize(2)
        self.fork()
        self.generation = 2
        self.pool.zygote_lost(1)
        self.pool.retire_before(2)
        self.asked.pop(0)[1].close()
        self.assertEqual((0, 0, 0, 0), self.counts())
        self.pool.resize(2)
        self.assertEqual((0, 0, 2, 0), self.counts())
        self.assertEqual(
            {2}, {each.generation for each in self.pool.in_flight.values()}
        )

    def test_stopping(self):
        """There are no more spare workers, but connections that wait are served."""
        self.pool.resize(1)
        connection = self.submit()
        self.assertEqual((0, 0, 2, 1), self.counts())
        self.pool.stopping = True
        self.pool.resize(0)
        self.fork()
        self.fork()
        self.assertEqual("ok", connection.reply.answers[0][0])
        self.assertEqual((0, 1, 0, 0), self.counts())
        self.run_until(lambda: len(self.children) == 1, "the other has ended")


class TestConnections(PoolTestCase):
    """From the request to the last answer."""

    def test_end(self):
        """FAULT 8: the directory is gone when the last answer is given."""
        connection = self.submit("exit-7")
        self.fork()
        answers = self.wait_closed(connection)
        self.assertEqual([["exit", "7"]], answers[1:])
        self.assertEqual([1, 0], [len(each) for each in connection.reply.left])
        self.assertEqual([(connection, "exit 7")], self.ended)
        self.assertEqual((0, 0, 0, 0), self.counts())

    def test_says_itself_how_it_ends(self):
        """A worker that says "left" tells the client itself how it ends."""
        connection = self.submit("left")
        pid = self.fork()
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        self.assertEqual(1, len(self.wait_closed(connection)))
        self.assertEqual([(connection, "exit 3")], self.ended)

    def test_nobody_reads_the_answer(self):
        """FAULT 12: a client that left before its answer leaves nothing open."""
        before = system.open_descriptors()
        connection = self.submit()
        connection.reply.has_reader = False
        self.fork()
        self.assertEqual(["signal", "15"], self.wait_closed(connection)[-1])
        self.assertEqual([], os.listdir(self.directory.connections))
        self.assertEqual(before, system.open_descriptors())

    def test_no_worker_in_time(self):
        connection = self.submit(patience=0.02)
        answers = self.wait_closed(connection)
        self.assertEqual(["error", "failed"], answers[0][:2])
        self.assertEqual(0, len(self.pool.waiting))
        # The worker that comes late is not needed any more.
        self.fork()
        self.assertEqual((0, 0, 0, 0), self.counts())

    def test_served_in_time(self):
        """The time limit ends when the connection has a worker."""
        connection = self.submit(patience=0.05)
        self.fork()
        self.loop.call_later(0.1, self.loop.stop)
        self.loop.run()
        self.assertEqual(1, len(connection.reply.answers))

    def test_fork_failed(self):
        """The connection that waited longest is refused; the others wait."""
        first, second = self.submit(), self.submit()
        serial, end = self.asked.pop(0)
        end.close()
        self.pool.fork_failed(serial, "no memory")
        self.assertEqual(["error", "failed"], first.reply.answers[0][:2])
        self.assertTrue(first.reply.closed)
        self.assertEqual([], second.reply.answers)
        self.fork()
        self.assertEqual("ok", second.reply.answers[0][0])
        self.assertEqual(["cannot fork a worker: no memory"], self.logged)

    def test_zygote_is_killed(self):
        """The next zygote is asked for what the killed one did not fork."""
        connection = self.submit()
        self.asked.pop(0)[1].close()
        self.generation = 0
        self.pool.zygote_lost(1)
        self.assertEqual((0, 0, 0, 1), self.counts())
        self.pool.refill()
        self.assertEqual((0, 0, 0, 1), self.counts())
        self.generation = 2
        self.pool.resize(0)
        self.fork()
        self.assertEqual("ok", connection.reply.answers[0][0])

    def test_worker_dies_before_its_pid_is_told(self):
        """Another worker is asked for, and the connection gets it."""
        connection = self.submit()
        serial, end = self.asked.pop(0)
        end.close()
        gone = os.fork()
        if gone == 0:
            os._exit(1)
        os.waitid(os.P_PID, gone, os.WEXITED | os.WNOWAIT)
        self.pool.forked(serial, gone)
        self.run_until(lambda: self.asked, "another is asked for")
        self.fork()
        self.assertEqual("ok", connection.reply.answers[0][0])

    def test_no_directory(self):
        """FAULT 3: connections that wait are refused; the worker stays spare."""
        self.pool.resize(1)
        os.rename(self.directory.connections, "elsewhere")
        users = [Connection("w", {}, Reply("elsewhere")) for _ in range(2000)]
        for each in users:
            self.pool.submit(each, 60.0)
        self.fork()
        refused = {tuple(each.reply.answers[0][:2]) for each in users}
        self.assertEqual({("error", "failed")}, refused)
        self.assertTrue(all(each.reply.closed for each in users))
        self.assertEqual((1, 0), (len(self.pool.spares), len(self.pool.waiting)))
        os.rename("elsewhere", self.directory.connections)
        self.assertEqual("ok", self.submit().reply.answers[0][0])

    def test_out_of_descriptors(self):
        """FAULT 3: the worker is asked for again."""
        failing = [True]

        def pair():
            if failing:
                raise OSError(24, "Too many open files")
            return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        self.overrideAttr(channel, "pair", pair)
        self.overrideAttr(Pool, "RETRY", 0.01)
        connection = self.submit()
        self.assertEqual((0, 0, 0, 1), self.counts())
        failing.clear()
        self.run_until(lambda: self.asked, "it is asked for again")
        self.fork()
        self.assertEqual("ok", connection.reply.answers[0][0])

    def test_what_the_rehearsal_missed(self):
        """It is logged once, however often it is reported."""
        connection = self.submit("missed")
        self.fork()
        self.run_until(lambda: self.logged, "it is logged")
        self.pool.signal_all(signal.SIGTERM)
        self.wait_closed(connection)
        self.assertEqual(["rehearsal missed modules: a b"], self.logged)

    def test_signal_all(self):
        """Workers that serve get the signal; spare ones do not."""
        self.pool.resize(1)
        self.fork()
        connection = self.submit()
        self.fork()
        self.pool.signal_all(signal.SIGTERM)
        self.assertEqual(["signal", "15"], self.wait_closed(connection)[-1])
        self.assertEqual([], os.listdir(self.directory.connections))
        self.assertEqual((1, 0, 0, 0), self.counts())
